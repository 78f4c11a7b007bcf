"""Tools: which are offered, which may or must be called, and the grammar that holds the answer to it.

`tool_choice: "none"` keeps the tools from the prompt. `required` and a named function leave nothing but
calls; `auto` is held to the schemas where a function is `strict`, where not every tool is allowed, or where
a `response_format` describes what is said instead of calling. `functions` and `function_call`, as they
were before there were tools, are read as tools of which one is called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dendrite_core.params import GrammarSpec
from dendrite_core.text.grammar_source import in_lark
from dendrite_server.protocol.fields import Fields, as_object, invalid, items, unsupported, wrong_type
from dendrite_server.tools.dialect import Dialect
from dendrite_server.tools.formats import LLAMA3_JSON, ToolFormat, parameters

Tool = dict[str, Any]

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_MODES = ("none", "auto", "required")
_NO_FORMAT = "This model's chat template tells of no way to call tools; name one with --tool-call-parser."
_FREE_TEXT = "Together with tools the answer's format can be JSON or free."


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """`offered` is what the template is shown, in OpenAI's shape; empty when no tool is to be called.

    `legacy`: they were given as `functions`, and a call is told of as `function_call`.
    """

    offered: tuple[Tool, ...] = ()
    parallel: bool = True
    grammar: GrammarSpec | None = None
    legacy: bool = False

    def schemas(self) -> list[GrammarSpec]:
        """Each tool's own schema, to find out which one a complaint is about."""
        return [
            GrammarSpec(
                kind="json_schema",
                source=json.dumps(parameters(tool["function"])),
                param=f"functions[{at}].parameters" if self.legacy else f"tools[{at}].function.parameters",
            )
            for at, tool in enumerate(self.offered)
        ]


NO_TOOLS = ToolUse()


@dataclass(frozen=True, slots=True)
class _Choice:
    """`names`: the functions that may be called, None for all; `single`: just one call."""

    mode: str
    names: tuple[str, ...] | None = None
    single: bool = False


def read_tools(fields: Fields, constraint: GrammarSpec | None, dialect: Dialect) -> ToolUse:
    """Take the tool fields; the grammar is that of calls and `constraint` together."""
    legacy = _is_legacy(fields)
    names = ("functions", "function_call") if legacy else ("tools", "tool_choice")
    tools, chosen = map(fields.path, names)
    read = _function if legacy else _tool
    given = [read(tool) for tool in items(tools, fields.array(names[0]) or [])]
    asked = fields.take(names[1])
    choice = _function_choice(chosen, asked) if legacy else _choice(chosen, asked)
    parallel = fields.boolean("parallel_tool_calls", True)
    if not given and choice is not None and choice.mode != "none":
        raise invalid(chosen, f"it is only allowed when '{tools}' are specified.")
    if not given or (choice is not None and choice.mode == "none"):
        return ToolUse(grammar=constraint)
    if dialect.calls is None:
        raise unsupported(tools, _NO_FORMAT)
    choice = choice or _Choice("auto")
    callable = _callable(chosen, given, choice, tools)
    one = choice.single or not parallel or legacy
    grammar = _grammar(dialect.calls, callable, choice, constraint, parallel=not one)
    offered = tuple(_shown(tool) for tool in given)
    return ToolUse(offered=offered, parallel=not one, grammar=grammar, legacy=legacy)


def _is_legacy(fields: Fields) -> bool:
    old = [name for name in ("functions", "function_call") if fields.has(name)]
    new = [name for name in ("tools", "tool_choice") if fields.has(name)]
    if old and new:
        raise invalid(fields.path(old[0]), f"it is the older name, and '{new[0]}' is given too.")
    return bool(old)


def _grammar(
    form: ToolFormat,
    tools: Sequence[Tool],
    choice: _Choice,
    constraint: GrammarSpec | None,
    *,
    parallel: bool,
) -> GrammarSpec | None:
    if choice.mode == "required":
        return form.grammar(tools, parallel=parallel)
    if constraint is not None:
        return _calls_or_json(form, tools, constraint, parallel)
    if choice.names is None and not any(tool.get("strict") for tool in tools):
        return None
    return form.in_text(tools) or form.grammar(tools, parallel=parallel, otherwise=form.no_call)


def _calls_or_json(
    form: ToolFormat, tools: Sequence[Tool], constraint: GrammarSpec, parallel: bool
) -> GrammarSpec:
    if constraint.kind != "json_schema":
        raise unsupported(constraint.param, _FREE_TEXT)
    if form is LLAMA3_JSON:
        reason = "This model's calls are plain JSON and could not be told from the answer."
        raise unsupported(constraint.param, reason)
    otherwise = in_lark(json.loads(constraint.source))
    return form.grammar(tools, parallel=parallel, otherwise=otherwise, param=constraint.param)


def _callable(path: str, tools: list[Tool], choice: _Choice, where: str) -> list[Tool]:
    if choice.names is None:
        return tools
    known = {tool["name"]: tool for tool in tools}
    for name in choice.names:
        if name not in known:
            raise invalid(path, f"there is no function '{name}' in '{where}'.")
    return [known[name] for name in dict.fromkeys(choice.names)]


def _shown(tool: Tool) -> Tool:
    """A tool as templates know it: what binds the server is none of the model's business."""
    return {"type": "function", "function": {name: tool[name] for name in tool if name != "strict"}}


def _tool(tool: Fields) -> Tool:
    tool.require("type")
    if tool.string("type") != "function":
        raise unsupported(tool.path("type"), "Only function tools are known here.")
    tool.require("function")
    function = as_object(tool.path("function"), tool.take("function"))
    tool.finish()
    return _function(function)


def _function(function: Fields) -> Tool:
    entry = {
        "name": _name(function),
        "description": function.string("description"),
        "parameters": _parameters(function),
        "strict": function.boolean("strict"),
    }
    function.finish()
    return {name: value for name, value in entry.items() if value is not None}


def _name(fields: Fields) -> str:
    fields.require("name")
    name = fields.string("name", "")
    if not _NAME.fullmatch(name):
        raise invalid(fields.path("name"), "it must be 1 to 64 letters, digits, '_', '-' or '.'.")
    return name


def _parameters(function: Fields) -> Tool | None:
    path, schema = function.path("parameters"), function.take("parameters")
    if schema is None:
        return None
    if not isinstance(schema, dict):
        raise wrong_type(path, "an object", schema)
    if schema.get("type", "object") != "object":
        raise invalid(path, "the arguments of a function are of type 'object'.")
    return schema


def _function_choice(path: str, choice: Any) -> _Choice | None:
    """`function_call`: "none", "auto" or {"name": ...}."""
    if not isinstance(choice, dict):
        if isinstance(choice, str) and choice not in ("none", "auto"):
            raise invalid(path, f"expected 'none', 'auto' or an object, but got '{choice}'.")
        return _choice(path, choice)
    fields = Fields(choice, path)
    name = _name(fields)
    fields.finish()
    return _Choice("required", (name,), single=True)


def _choice(path: str, choice: Any) -> _Choice | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in _MODES:
            raise invalid(path, f"expected 'none', 'auto', 'required' or an object, but got '{choice}'.")
        return _Choice(choice)
    if not isinstance(choice, dict):
        raise wrong_type(path, "a string or an object", choice)
    fields = Fields(choice, path)
    fields.require("type")
    kind = fields.choice("type", ("function", "allowed_tools", "custom"))
    if kind == "custom":
        raise unsupported(fields.path("type"), "Only function tools are known here.")
    read = _named if kind == "function" else _allowed
    found = read(fields)
    fields.finish()
    return found


def _named(fields: Fields) -> _Choice:
    return _Choice("required", (_function_name(fields),), single=True)


def _function_name(fields: Fields) -> str:
    fields.require("function")
    function = as_object(fields.path("function"), fields.take("function"))
    name = _name(function)
    function.finish()
    return name


def _allowed(fields: Fields) -> _Choice:
    fields.require("allowed_tools")
    allowed = as_object(fields.path("allowed_tools"), fields.take("allowed_tools"))
    for name in ("mode", "tools"):
        allowed.require(name)
    mode = allowed.choice("mode", ("auto", "required")) or "auto"
    tools = list(items(allowed.path("tools"), allowed.array("tools") or []))
    if not tools:
        raise invalid(allowed.path("tools"), "it must name at least one tool.")
    names = tuple(_allowed_name(tool) for tool in tools)
    allowed.finish()
    return _Choice(mode, names)


def _allowed_name(tool: Fields) -> str:
    tool.require("type")
    if tool.string("type") != "function":
        raise unsupported(tool.path("type"), "Only function tools are known here.")
    name = _function_name(tool)
    tool.finish()
    return name
