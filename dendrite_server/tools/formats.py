"""How model families write tool calls: a row per format, with its parser and its grammar.

Which one a model speaks is read off its chat template, or said with `--tool-call-parser`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dendrite_core.params import GrammarSpec
from dendrite_core.text.grammar_source import in_lark
from dendrite_server.tools.parsers import JsonCallsParser, Llama3Parser, Parser, PythonicParser

Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way of writing calls.

    A call is `before` + name + `middle` + arguments as JSON + `after`; a completion of calls is `first` +
    calls with `between` + `last`. `marks` are texts whose presence in a chat template gives the format
    away. `trigger` starts a call in running text, None where a call must be the whole completion.
    `short_ids`: its templates take only ids of nine letters and digits.
    """

    name: str
    parser: Callable[[], Parser]
    before: str
    middle: str
    after: str
    first: str = ""
    between: str = "\n"
    last: str = ""
    trigger: str | None = None
    short_ids: bool = False
    marks: tuple[str, ...] = ()
    rules: Callable[[ToolFormat, int, Tool], list[str]] = lambda form, i, tool: _json_rules(form, i, tool)

    def grammar(
        self, tools: Sequence[Tool], *, parallel: bool, otherwise: str | None = None, param: str = "tools"
    ) -> GrammarSpec:
        """One call, or with `parallel` one or more, of these tools and nothing else (Lark, llguidance).

        `otherwise` is the body of a Lark rule: what may be said instead of calling.
        """
        calls = " | ".join(f"call_{i}" for i in range(len(tools)))
        more = f" ({_quoted(self.between)} call)*" if parallel else ""
        start = "start: calls" if otherwise is None else f"start: calls | answer\nanswer: {otherwise}"
        rules = [start, _joined("calls:", _quoted(self.first), f"call{more}", _quoted(self.last))]
        rules.append(f"call: {calls}")
        for i, tool in enumerate(tools):
            rules += self.rules(self, i, tool)
        return GrammarSpec(kind="lark", source="\n".join(rules), param=param)

    def call_id(self, branch_id: str, index: int) -> str:
        """The id of a branch's call; the same whenever that branch is told of."""
        digest = hashlib.sha256(f"{branch_id} {index}".encode()).hexdigest()
        return digest[:9] if self.short_ids else f"call_{digest[:24]}"

    @property
    def no_call(self) -> str:
        """The body of a Lark rule for text that is no call: it does not begin as one."""
        begins = (self.first or self.before)[0]
        return rf"/(?s:[^\{begins}<\s].*)/"

    def in_text(self, tools: Sequence[Tool]) -> GrammarSpec | None:
        """Any text, in which a call of one of these tools fits its schema; None where the format cannot."""
        if self.trigger is None:
            return None
        structures = [
            {"begin": self.before + str(t["name"]) + self.middle, "schema": parameters(t), "end": self.after}
            for t in tools
        ]
        spec = {"type": "structural_tag", "structures": structures, "triggers": [self.trigger]}
        return GrammarSpec(kind="structural_tag", source=json.dumps(spec), param="tools")


def _json_rules(form: ToolFormat, i: int, tool: Tool) -> list[str]:
    opening = _quoted(form.before + str(tool["name"]) + form.middle)
    return [
        _joined(f"call_{i}:", opening, f"arguments_{i}", _quoted(form.after)),
        f"arguments_{i}: {in_lark(parameters(tool))}",
    ]


def _python_rules(form: ToolFormat, i: int, tool: Tool) -> list[str]:
    """Keyword arguments, those that are not required last and maybe left out; with none required, all are."""
    properties = parameters(tool).get("properties", {})
    required = set(parameters(tool).get("required", ())) or set(properties)
    ordered = sorted(properties.items(), key=lambda entry: entry[0] not in required)
    rules, parts, lead = [], [], ""
    for at, (key, value) in enumerate(ordered):
        rules.append(f"value_{i}_{at}: {in_lark(value)}")
        part = _joined(_quoted(f"{lead}{key}="), f"value_{i}_{at}")
        parts.append(part if key in required else f"({part})?")
        lead = ", "
    opening, closing = _quoted(f"{tool['name']}("), _quoted(")")
    return [_joined(f"call_{i}:", opening, *parts, closing), *rules]


def parameters(tool: Tool) -> dict[str, Any]:
    """A tool's argument schema; no `parameters` means no arguments. Arguments are an object in any case."""
    given = tool.get("parameters") or {"properties": {}, "additionalProperties": False}
    return {"type": "object", **given}


HERMES = ToolFormat(
    name="hermes",
    parser=lambda: JsonCallsParser("<tool_call>", "</tool_call>", ""),
    before='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    after="}\n</tool_call>",
    trigger="<tool_call>",
    marks=("<tool_call>",),
)
MISTRAL = ToolFormat(
    name="mistral",
    parser=lambda: JsonCallsParser("[TOOL_CALLS]", "", "[],"),
    before='{"name": "',
    middle='", "arguments": ',
    after="}",
    first="[TOOL_CALLS] [",
    between=", ",
    last="]",
    short_ids=True,
    marks=("[TOOL_CALLS]",),
)
LLAMA3_JSON = ToolFormat(
    name="llama3_json",
    parser=Llama3Parser,
    before='{"name": "',
    middle='", "parameters": ',
    after="}",
    between="; ",
    marks=('"parameters": dictionary of argument name', "<|python_tag|>"),
)
PYTHONIC = ToolFormat(
    name="pythonic",
    parser=PythonicParser,
    before="",
    middle="(",
    after=")",
    first="[",
    between=", ",
    last="]",
    rules=_python_rules,
    marks=("[func_name1(params_name1=params_value1",),
)

FORMATS = {entry.name: entry for entry in (HERMES, MISTRAL, PYTHONIC, LLAMA3_JSON)}


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template's text gives away, if any does."""
    return next((f for f in FORMATS.values() if any(mark in template for mark in f.marks)), None)


def _quoted(text: str) -> str:
    return json.dumps(text) if text else ""


def _joined(*parts: str) -> str:
    return " ".join(filter(None, parts))
