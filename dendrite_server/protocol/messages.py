"""Chat messages: OpenAI's roles and content parts into the plain dictionaries that templates read.

Every key of a message is checked. Text parts are joined as they are, the developer role speaks as system
and a function's result as a tool's.
"""

from __future__ import annotations

from typing import Any

from dendrite_core.errors import RequestError
from dendrite_server.protocol.fields import (
    Fields,
    as_object,
    invalid,
    items,
    missing,
    unsupported,
    wrong_type,
)

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_TEMPLATE_ROLE = {"developer": "system", "function": "tool"}
_MEDIA_PARTS = ("image_url", "input_audio", "file", "video_url")


def parse_messages(values: list[Any], path: str = "messages") -> tuple[Message, ...]:
    return tuple(_message(message) for message in items(path, values))


def _message(fields: Fields) -> Message:
    fields.require("role")
    role = fields.choice("role", ROLES)
    assert role is not None
    message: Message = {"role": _TEMPLATE_ROLE.get(role, role)}
    if role == "function":
        fields.require("name")
    if name := fields.string("name"):
        message["name"] = name
    if role == "assistant":
        _assistant(fields, message)
    else:
        message["content"] = _content(fields)
    if role == "tool":
        fields.require("tool_call_id")
        message["tool_call_id"] = fields.string("tool_call_id")
    fields.finish()
    return message


def _assistant(fields: Fields, message: Message) -> None:
    calls = _tool_calls(fields)
    refusal = fields.string("refusal")
    for name in ("reasoning_content", "reasoning"):
        if (text := fields.string(name)) is not None:
            message["reasoning_content"] = text
    # What a client got in an answer and sends back as it was; it has no place in a text prompt.
    fields.array("annotations")
    if fields.has("audio"):
        raise unsupported(fields.path("audio"), "This server's models read text only.")
    if fields.has("content"):
        message["content"] = _content(fields, refusals=True)
    elif refusal is not None or calls:
        message["content"] = refusal or ""
    else:
        raise missing(fields.path("content"))
    if calls:
        message["tool_calls"] = calls


def _content(fields: Fields, *, refusals: bool = False) -> str:
    path = fields.path("content")
    fields.require("content")
    value = fields.take("content")
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of content parts", value)
    if not value:
        raise invalid(path, "an array of content parts must not be empty.")
    return "".join(_part(part, refusals) for part in items(path, value))


def _part(part: Fields, refusals: bool) -> str:
    part.require("type")
    kind = part.string("type", "")
    if kind in _MEDIA_PARTS:
        raise unsupported(part.path("type"), "This server's models read text only.")
    if kind != "text" and not (refusals and kind == "refusal"):
        raise invalid(part.path("type"), f"expected 'text', but got '{kind}'.")
    part.require(kind)
    text = part.string(kind, "")
    part.object("prompt_cache_breakpoint")
    part.finish()
    return text


def _tool_calls(fields: Fields) -> list[Message]:
    calls = [_tool_call(call) for call in items(fields.path("tool_calls"), fields.array("tool_calls") or [])]
    if (legacy := fields.object("function_call")) is not None:
        calls.append({"type": "function", "function": _function(legacy)})
    return calls


def _tool_call(call: Fields) -> Message:
    for name in ("id", "type", "function"):
        call.require(name)
    kind = call.string("type", "")
    if kind != "function":
        raise unsupported(call.path("type"), "Only function tools are known here.")
    entry = {"id": call.string("id"), "type": kind, "function": _function(_required_object(call, "function"))}
    call.take("index")
    call.finish()
    return entry


def _required_object(fields: Fields, name: str) -> Fields:
    return as_object(fields.path(name), fields.take(name))


def _function(function: Fields) -> Message:
    for name in ("name", "arguments"):
        function.require(name)
    entry = {"name": function.string("name"), "arguments": function.string("arguments")}
    function.finish()
    return entry


def final_text(messages: tuple[Message, ...]) -> str:
    """The assistant text that `continue_final_message` goes on with."""
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"]:
        reason = "continue_final_message needs a last message of the assistant with content."
        raise RequestError(reason, param="continue_final_message")
    text: str = messages[-1]["content"]
    return text
