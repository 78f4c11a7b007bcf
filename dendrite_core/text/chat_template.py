"""`ChatTemplate`: messages to the text a model was trained on, by the model's own jinja template.

Templates are code from a download: they run in transformers' sandbox, see only plain data, and what they
raise is the caller's error about `messages`. `render_after` gives the text of a turn that follows a branch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dendrite_core.errors import ModelLoadError, RequestError, UnsupportedParameter
from dendrite_core.text import files

Message = Mapping[str, Any]

# Letters only: templates trim whitespace and split at tags and punctuation.
_SENTINEL = "QzXjSentinelTurnXjQz"
_CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """The chat template(s) of one model; `templates` maps names (`default`, `tool_use`) to jinja sources.

    `end_markers` are the texts of the tokens that end a turn; `text` is all the sources together.
    """

    def __init__(
        self,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        end_markers: Sequence[str] = (),
    ) -> None:
        environment = _environment()
        try:
            self._templates = {name: environment.from_string(text) for name, text in templates.items()}
        except jinja2.TemplateSyntaxError as error:
            raise ModelLoadError(f"the chat template is not valid jinja: {error}") from error
        self.text = "\n".join(templates.values())
        self._special_tokens = dict(special_tokens or {})
        self._end_markers = tuple(end_markers)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> ChatTemplate:
        """The template of a checkpoint folder or hub id, possibly none (then rendering is refused)."""
        folder = files.tokenizer_folder(source)
        names = files.special_token_names(folder)
        return cls(files.chat_templates(folder), names, files.eos_texts(folder))

    def replaced_by(self, text: str) -> ChatTemplate:
        """Another template for the same model. Raises `RequestError` for one that is no jinja."""
        try:
            return ChatTemplate({"default": text}, self._special_tokens, self._end_markers)
        except ModelLoadError as error:
            raise RequestError(str(error), param="chat_template") from error

    @property
    def exists(self) -> bool:
        return bool(self._templates)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt text of a whole conversation.

        With `continue_final_message` the text ends inside the last message, which the model goes on
        writing; `add_generation_prompt` has no say then.
        """
        plain = [_template_message(message) for message in messages]
        if continue_final_message:
            _mark_end(plain)
            add_generation_prompt = False
        rendered = self._run(plain, tools, add_generation_prompt, kwargs)
        return _cut_at_mark(rendered) if continue_final_message else rendered

    def render_after(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> tuple[str, str]:
        """What follows an assistant turn that already lives in a branch: (end of that turn, the rest).

        The end of the turn is what a finished turn's own tokens may already hold, up to and including
        the end marker; it is empty for a template without one.
        """
        past = [{"role": "user", "content": "."}, {"role": "assistant", "content": _SENTINEL}]
        plain = [_template_message(message) for message in messages]
        closed = _after_sentinel(self._run(past, tools, False, kwargs))
        after = _after_sentinel(self._run([*past, *plain], tools, add_generation_prompt, kwargs))
        end = self._end_of_turn(closed)
        if not after.startswith(end):
            end = ""
        return end, after[len(end) :]

    def _run(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        kwargs: Mapping[str, Any],
    ) -> str:
        given = {
            **self._special_tokens,
            **_plain(kwargs),
            "messages": messages,
            "tools": _plain(tools) if tools else None,
            "documents": _plain(kwargs.get("documents")),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._choose(bool(tools)).render(given)
        except jinja2.TemplateError as error:
            message = f"the chat template refuses these messages: {error}"
            raise RequestError(message, param="messages") from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            message = f"the chat template fails on these messages: {error}"
            raise RequestError(message, param="messages") from error

    def _choose(self, with_tools: bool) -> jinja2.Template:
        name = "tool_use" if with_tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise RequestError(
                "this model has no chat template; use /v1/completions, or start with --chat-template",
                param="messages",
            )
        return self._templates[name]

    def _end_of_turn(self, closed: str) -> str:
        found = [marker for marker in self._end_markers if marker and marker in closed]
        return closed[: min(closed.index(marker) + len(marker) for marker in found)] if found else ""


def _after_sentinel(rendered: str) -> str:
    _, found, after = rendered.partition(_SENTINEL)
    if not found:
        raise UnsupportedParameter("this model's chat template cannot continue a branch", param="parent_id")
    return after


def _template_message(message: Message) -> dict[str, Any]:
    """One OpenAI message as templates expect it: text content, no nulls, tool arguments as objects."""
    plain: dict[str, Any] = {key: _plain(value) for key, value in message.items() if value is not None}
    plain["content"] = _flat(plain.get("content", ""))
    if "tool_calls" in plain:
        plain["tool_calls"] = [_template_call(call) for call in plain["tool_calls"]]
    reasoning = next((plain[field] for field in _REASONING_FIELDS if field in plain), None)
    if reasoning is not None:
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def _flat(content: Any) -> Any:
    """Text parts joined; anything else is left for the template to judge."""
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    return content


def _template_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _mark_end(messages: list[dict[str, Any]]) -> None:
    if not messages or not isinstance(messages[-1]["content"], str):
        raise RequestError("there is no final message text to continue", param="continue_final_message")
    messages[-1]["content"] += _CONTINUED


def _cut_at_mark(rendered: str) -> str:
    at = rendered.rfind(_CONTINUED.strip())
    if at < 0:
        raise UnsupportedParameter(
            "this model's chat template does not keep the final message's text",
            param="continue_final_message",
        )
    # A template that trims messages has trimmed after our mark, where it would have trimmed before it.
    kept = rendered.startswith(_CONTINUED, at)
    return rendered[:at] if kept else rendered[:at].rstrip()


def _plain(value: Any) -> Any:
    """`value` rebuilt from JSON's types alone, since a template may call any method of what it sees."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


class _Namespace(jinja2.utils.Namespace):
    """jinja's `namespace`, without the underscored attributes that lead out of the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


class _Dict:
    """jinja's `dict`, as an object that leads nowhere else."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a template may not set {name!r} on a namespace")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks assistant text for training; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment transformers compiles chat templates in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Unlike jinja's own filter, this one does not escape HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
