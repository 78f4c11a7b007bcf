"""Function tools and `text.format`: the Responses spelling of them as the chat layer spells them.

Everything about how a model is told of tools and held to a schema is the chat layer's. Here its fields
are renamed on the way in, and its complaints on the way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dendrite_core.errors import RequestError
from dendrite_server.protocol.fields import Fields, invalid, items, unsupported, wrong_type

Body = dict[str, Any]

# Chat's name of a field, and this API's.
_RENAMED = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("verbosity", "text.verbosity"),
    ("reasoning_effort", "reasoning.effort"),
    ("max_completion_tokens", "max_output_tokens"),
    ("max_tokens", "max_output_tokens"),
    ("messages", "input"),
)
_CHOICES = ("none", "auto", "required")


@contextmanager
def in_callers_words() -> Iterator[None]:
    """Errors about chat's fields become errors about the fields that the caller wrote."""
    try:
        yield
    except RequestError as error:
        error.param, old = _renamed(error.param or ""), error.param
        if error.param != old:
            error.message = error.message.replace(f"'{old}'", f"'{error.param}'")
            error.args = (error.message,)
        raise


def _renamed(param: str) -> str | None:
    for chat, here in _RENAMED:
        if param == chat or param.startswith((f"{chat}.", f"{chat}[")):
            return here + param[len(chat) :]
    if param.startswith("tools["):
        return param.replace("].function.", "].")
    return param or None


def read_tools(fields: Fields) -> tuple[Body, Body]:
    """(what the response object echoes, what chat is asked)."""
    given = fields.array("tools") or []
    tools = [_tool(tool) for tool in items(fields.path("tools"), given)]
    choice = fields.take("tool_choice")
    echo = {"tools": given, "tool_choice": "auto" if choice is None else choice}
    asked = _tool_choice(fields.path("tool_choice"), choice)
    # "auto" without tools is what every client sends that has none.
    if not tools and asked in (None, "auto", "none"):
        return echo, {}
    return echo, {**({"tools": tools} if tools else {}), "tool_choice": asked}


def _tool(tool: Fields) -> Body:
    tool.require("type")
    if tool.string("type") != "function":
        raise unsupported(tool.path("type"), "Only function tools are known here.")
    tool.require("name")
    function = {
        "name": tool.string("name"),
        "description": tool.string("description"),
        "parameters": _schema(tool, "parameters"),
        "strict": tool.boolean("strict"),
    }
    tool.finish()
    return {"type": "function", "function": _given(function)}


def _schema(fields: Fields, name: str) -> Body | None:
    schema = fields.take(name)
    if schema is not None and not isinstance(schema, dict):
        raise wrong_type(fields.path(name), "an object", schema)
    return schema


def _given(body: Body) -> Body:
    return {name: value for name, value in body.items() if value is not None}


def _tool_choice(path: str, choice: Any) -> Any:
    if choice is None or isinstance(choice, str):
        if choice not in (None, *_CHOICES):
            raise invalid(path, f"expected 'none', 'auto', 'required' or an object, but got '{choice}'.")
        return choice
    if not isinstance(choice, dict):
        raise wrong_type(path, "a string or an object", choice)
    fields = Fields(choice, path)
    fields.require("type")
    kind = fields.string("type")
    if kind == "function":
        asked: Body = {"type": kind, "function": _named(fields)}
    elif kind == "allowed_tools":
        asked = {"type": kind, "allowed_tools": _allowed(fields)}
    else:
        raise unsupported(f"{path}.type", "Only function tools are known here.")
    fields.finish()
    return asked


def _named(fields: Fields) -> Body:
    fields.require("name")
    return {"name": fields.string("name")}


def _allowed(fields: Fields) -> Body:
    fields.require("mode")
    mode = fields.choice("mode", ("auto", "required"))
    return {
        "mode": mode,
        "tools": [_allowed_tool(tool) for tool in items(fields.path("tools"), fields.array("tools") or [])],
    }


def _allowed_tool(tool: Fields) -> Body:
    tool.require("type")
    if tool.string("type") != "function":
        raise unsupported(tool.path("type"), "Only function tools are known here.")
    entry = {"type": "function", "function": _named(tool)}
    tool.finish()
    return entry


def read_text(fields: Fields) -> tuple[Body, Body]:
    """`text`: (what the response object echoes, what chat is asked)."""
    text = fields.object("text") or Fields({}, "text")
    verbosity = text.choice("verbosity", ("low", "medium", "high"))
    format = text.object("format")
    text.finish()
    kind = "text" if format is None else _format_type(format)
    echo: Body = {"type": kind}
    asked: Body = {"verbosity": verbosity, "response_format": {"type": kind}}
    if format is not None and kind == "json_schema":
        schema = _json_schema(format)
        echo = {**echo, "description": None, "strict": False, **schema}
        asked["response_format"]["json_schema"] = schema
    if format is not None:
        format.finish()
    return {"text": {"format": echo, "verbosity": verbosity or "medium"}}, asked


def _format_type(format: Fields) -> str:
    format.require("type")
    return format.choice("type", ("text", "json_object", "json_schema")) or "text"


def _json_schema(format: Fields) -> Body:
    for name in ("name", "schema"):
        format.require(name)
    schema = {
        "name": format.string("name"),
        "schema": _schema(format, "schema"),
        "description": format.string("description"),
        "strict": format.boolean("strict"),
    }
    return _given(schema)
