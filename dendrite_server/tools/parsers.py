"""Reading tool calls out of a streamed completion, one class per way of writing them.

A parser is pushed text and yields events; `finish` flushes what was held back. Text that looked like a call
and was none comes out as content: nothing a model wrote is lost.
"""

from __future__ import annotations

import ast
import json
from typing import Any, Protocol

from dendrite_server.tools.events import CallArguments, CallStart, Content, Event
from dendrite_server.tools.json_call import JsonCall


class Parser(Protocol):
    """One choice's parser. `calls` counts the calls begun."""

    @property
    def calls(self) -> int: ...
    def push(self, text: str) -> list[Event]: ...
    def finish(self) -> list[Event]: ...


class JsonCallsParser:
    """JSON calls behind an opening mark, each or all together: Hermes, Mistral, Llama 3.

    After `opening`, calls are objects separated by `between` characters (and any space); `closing`, where
    there is one, ends a run of them. An empty `opening` means the whole completion is calls if it starts
    with an object.
    """

    def __init__(self, opening: str, closing: str, between: str) -> None:
        self.calls = 0
        self._opening = opening
        self._closing = closing
        self._between = between
        self._text = ""
        self._raw = ""
        self._call: JsonCall | None = None
        self._inside = False
        self._named = False

    def push(self, text: str) -> list[Event]:
        self._text += text
        events: list[Event] = []
        while self._text and self._advance(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """A call cut short keeps what it has if its name was known, else it was content."""
        rest, self._text = self._text, ""
        if self._call is not None and not self._named:
            rest = self._raw + rest
        if self._inside and not rest.strip(self._between + " \n\t"):
            rest = ""
        return [Content(rest)] if rest else []

    def _advance(self, events: list[Event]) -> bool:
        """One move; False when more text is needed."""
        if self._call is not None:
            return self._in_call(events)
        if self._inside:
            return self._between_calls()
        return self._outside(events)

    def _outside(self, events: list[Event]) -> bool:
        at = self._text.find(self._opening)
        if at >= 0:
            self._emit(events, self._text[:at])
            self._raw, self._text = self._opening, self._text[at + len(self._opening) :]
            self._inside = True
            return True
        held = _overlap(self._text, self._opening)
        self._emit(events, self._text[: len(self._text) - held])
        self._text = self._text[len(self._text) - held :]
        return False

    def _between_calls(self) -> bool:
        stripped = self._text.lstrip(self._between + " \n\t")
        self._raw += self._text[: len(self._text) - len(stripped)]
        self._text = stripped
        if not stripped:
            return False
        if self._closing and stripped.startswith(self._closing):
            self._text = stripped[len(self._closing) :].removeprefix("\n")
            self._inside = False
            return True
        if self._closing and self._closing.startswith(stripped):
            return False
        self._call, self._named = JsonCall(), False
        return True

    def _in_call(self, events: list[Event]) -> bool:
        call = self._call
        assert call is not None
        used = call.push(self._text)
        self._raw += self._text[:used]
        self._text = self._text[used:]
        if call.name is not None and not self._named:
            self._named = True
            events.append(CallStart(self.calls, call.name))
            self.calls += 1
        if fragment := call.take_arguments():
            events.append(CallArguments(self.calls - 1, fragment))
        if call.broken:
            self._text, self._inside = self._raw + self._text, False
            self._emit(events, self._text)
            self._text = ""
        if call.done or call.broken:
            self._call, self._raw = None, ""
            return True
        return False

    def _emit(self, events: list[Event], text: str) -> None:
        if text and not (self.calls and text.isspace()):
            events.append(Content(text))


class Llama3Parser(JsonCallsParser):
    """Llama 3: the completion is one JSON call, or several with `;` between, maybe after `<|python_tag|>`."""

    def __init__(self) -> None:
        super().__init__("", "", ";,")
        self._decided = False

    def push(self, text: str) -> list[Event]:
        if self._decided:
            return super().push(text)
        self._text += text
        start = self._text.lstrip()
        if not start or "<|python_tag|>".startswith(start):
            return []
        self._decided = True
        if start.startswith(("<|python_tag|>", "{")):
            self._text = start.removeprefix("<|python_tag|>")
        else:
            # No string occurs in a text that never ends: from here on everything is content.
            self._opening = "\0"
        return super().push("")


class PythonicParser:
    """Llama 3.2 and others: the whole completion is a list of Python calls, `[f(a=1), g(b="x")]`."""

    def __init__(self) -> None:
        self.calls = 0
        self._text = ""

    def push(self, text: str) -> list[Event]:
        self._text += text
        if self._text.lstrip().startswith("[") or not self._text.strip():
            return []
        text, self._text = self._text, ""
        return [Content(text)]

    def finish(self) -> list[Event]:
        calls = _python_calls(self._text.strip())
        if calls is None:
            return [Content(self._text)] if self._text else []
        events: list[Event] = []
        for index, (name, arguments) in enumerate(calls):
            written = json.dumps(arguments, ensure_ascii=False)
            events += [CallStart(index, name), CallArguments(index, written)]
        self.calls = len(calls)
        return events


def _python_calls(text: str) -> list[tuple[str, dict[str, object]]] | None:
    """The calls of a list literal of calls with literal keyword arguments; None if it is anything else."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            return None
        return [_python_call(node) for node in tree.elts]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _python_call(node: ast.expr) -> tuple[str, dict[str, object]]:
    if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
        raise ValueError("not a call with keyword arguments only")
    return ast.unparse(node.func), {str(w.arg): _literal(w.value) for w in node.keywords}


def _literal(node: ast.expr) -> object:
    """A Python literal, in which JSON's spelling of constants is understood too."""
    for inner in ast.walk(node):
        for field, value in ast.iter_fields(inner):
            if isinstance(value, list):
                setattr(inner, field, [_constant(item) for item in value])
            elif isinstance(value, ast.Name):
                setattr(inner, field, _constant(value))
    return ast.literal_eval(_constant(node))


def _constant(node: Any) -> Any:
    known = {"true": True, "false": False, "null": None}
    return ast.Constant(known[node.id]) if isinstance(node, ast.Name) and node.id in known else node


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that may be the beginning of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[len(text) - length :]):
            return length
    return 0
