"""Items of the Responses API: what callers send, checked and completed, and the chat messages they make.

An item's id carries its owner's, so that an `item_reference` is found without an index: `msg_` and the
hex digits of `resp_...` or `conv_...`, then a count.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from dendrite_core.errors import RequestError
from dendrite_server.protocol.fields import Fields, invalid, items, missing, unsupported, wrong_type
from dendrite_server.protocol.messages import Message

Item = dict[str, Any]

_OWNER_DIGITS = 32
_STATUSES = ("in_progress", "completed", "incomplete")
_MEDIA_PARTS = ("input_image", "input_file", "input_audio", "computer_screenshot")
_KNOWN = "This server knows messages, function calls with their outputs, reasoning and references to items."


class Names:
    """Ids for the items of one owner, a response or a conversation, `taken` of them already given."""

    def __init__(self, owner_id: str, taken: int = 0) -> None:
        self._owner = owner_id.partition("_")[2]
        self._counts = itertools.count(taken)

    def new(self, prefix: str) -> str:
        return f"{prefix}_{self._owner}{next(self._counts):04x}"

    def name(self, given: Iterable[Item]) -> tuple[Item, ...]:
        """Items with an id each; one that a caller brought along is kept."""
        return tuple({"id": item.get("id") or self.new(_PREFIX[item["type"]]), **item} for item in given)


def new_owner(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(_OWNER_DIGITS // 2)}"


def owner_digits(item_id: str) -> str:
    """What an item's id says of its owner's."""
    return item_id.partition("_")[2][:_OWNER_DIGITS]


# Reading.


def read_input(fields: Fields, name: str = "input") -> tuple[Item, ...]:
    """A text is a user's message; a list is items. Nothing given is nothing new."""
    value = fields.take(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (_message_item("user", [{"type": "input_text", "text": value}]),)
    if not isinstance(value, list):
        raise wrong_type(fields.path(name), "a string or an array of items", value)
    return tuple(_item(item) for item in items(fields.path(name), value))


def _item(fields: Fields) -> Item:
    kind = fields.string("type")
    if kind is None:
        kind = "message" if fields.has("role") or not fields.has("id") else "item_reference"
    if kind not in _READERS:
        raise unsupported(fields.path("type"), _KNOWN)
    id = fields.string("id")
    status = fields.choice("status", _STATUSES) or "completed"
    item = {**({"id": id} if id else {}), **_READERS[kind](fields)}
    fields.finish()
    return item if kind == "item_reference" else {**item, "status": status}


def _message(fields: Fields) -> Item:
    fields.require("role")
    role = fields.choice("role", ("user", "assistant", "system", "developer"))
    assert role is not None
    phase = fields.choice("phase", ("commentary", "final_answer"))
    item = _message_item(role, _content(fields, role))
    return {**item, "phase": phase} if phase else item


def _message_item(role: str, content: list[Item]) -> Item:
    return {"type": "message", "role": role, "content": content, "status": "completed"}


def _content(fields: Fields, role: str) -> list[Item]:
    fields.require("content")
    value = fields.take("content")
    if isinstance(value, str):
        return [_output_text(value) if role == "assistant" else {"type": "input_text", "text": value}]
    if not isinstance(value, list):
        raise wrong_type(fields.path("content"), "a string or an array of content parts", value)
    known = ("output_text", "refusal") if role == "assistant" else ("input_text",)
    return [_part(part, known) for part in items(fields.path("content"), value)]


def _output_text(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _part(part: Fields, known: tuple[str, ...]) -> Item:
    part.require("type")
    kind = part.string("type", "")
    if kind in _MEDIA_PARTS:
        raise unsupported(part.path("type"), "This server's models read text only.")
    if kind not in known:
        options = " or ".join(f"'{option}'" for option in known)
        raise invalid(part.path("type"), f"expected {options}, but got '{kind}'.")
    field = "refusal" if kind == "refusal" else "text"
    part.require(field)
    shown: Item = {"type": kind, field: part.string(field)}
    if kind == "output_text":
        shown |= {"annotations": part.array("annotations") or [], "logprobs": part.array("logprobs") or []}
    part.object("prompt_cache_breakpoint")
    part.finish()
    return shown


def _required(fields: Fields, *names: str) -> Item:
    for name in names:
        if not fields.has(name):
            raise missing(fields.path(name))
    return {name: fields.string(name) for name in names}


def _call(fields: Fields) -> Item:
    return {"type": "function_call", **_required(fields, "call_id", "name", "arguments")}


def _call_output(fields: Fields) -> Item:
    item = {"type": "function_call_output", **_required(fields, "call_id")}
    name = fields.string("name")
    fields.require("output")
    output = fields.take("output")
    if isinstance(output, list):
        output = [_part(part, ("input_text",)) for part in items(fields.path("output"), output)]
    elif not isinstance(output, str):
        raise wrong_type(fields.path("output"), "a string or an array of content parts", output)
    return {**item, "output": output, **({"name": name} if name else {})}


def _reasoning(fields: Fields) -> Item:
    if fields.has("encrypted_content"):
        raise unsupported(fields.path("encrypted_content"), "This server cannot read what another encrypted.")
    summary = _texts(fields, "summary", "summary_text")
    return {"type": "reasoning", "summary": summary, "content": _texts(fields, "content", "reasoning_text")}


def _texts(fields: Fields, name: str, kind: str) -> list[Item]:
    return [_part(part, (kind,)) for part in items(fields.path(name), fields.array(name) or [])]


def _reference(fields: Fields) -> Item:
    return {"type": "item_reference"}


_READERS: dict[str, Callable[[Fields], Item]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _call_output,
    "reasoning": _reasoning,
    "item_reference": _reference,
}
_PREFIX = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "item_reference": "ref",
}


def require_calls(past: Iterable[Item], new: Iterable[Item]) -> None:
    """Every output answers a call that was made before it. Raises `RequestError`, worded as at OpenAI."""
    calls = {item["call_id"] for item in past if item["type"] == "function_call"}
    for index, item in enumerate(new):
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            message = f"No tool call found for function call output with call_id {item['call_id']}."
            raise RequestError(message, param=f"input[{index}].call_id")


# As chat messages.


def messages_of(given: Iterable[Item]) -> list[Message]:
    """What a chat template is shown; neighbouring items of the assistant are one turn."""
    messages: list[Message] = []
    for item in given:
        message = _AS_MESSAGE[item["type"]](item)
        if messages and message["role"] == messages[-1]["role"] == "assistant":
            _join(messages[-1], message)
        else:
            messages.append(message)
    return messages


def _join(turn: Message, more: Message) -> None:
    turn["content"] += more["content"]
    if "tool_calls" in more:
        turn["tool_calls"] = [*turn.get("tool_calls", []), *more["tool_calls"]]
    if "reasoning_content" in more:
        turn["reasoning_content"] = turn.get("reasoning_content", "") + more["reasoning_content"]


def _said(parts: str | list[Item]) -> str:
    if isinstance(parts, str):
        return parts
    return "".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in parts)


def _message_as_message(item: Item) -> Message:
    role = "system" if item["role"] == "developer" else item["role"]
    return {"role": role, "content": _said(item["content"])}


def _call_as_message(item: Item) -> Message:
    function = {"name": item["name"], "arguments": item["arguments"]}
    call = {"id": item["call_id"], "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _output_as_message(item: Item) -> Message:
    return {"role": "tool", "tool_call_id": item["call_id"], "content": _said(item["output"])}


def _reasoning_as_message(item: Item) -> Message:
    thought = _said(item.get("content") or item["summary"])
    return {"role": "assistant", "content": "", "reasoning_content": thought}


_AS_MESSAGE: dict[str, Callable[[Item], Message]] = {
    "message": _message_as_message,
    "function_call": _call_as_message,
    "function_call_output": _output_as_message,
    "reasoning": _reasoning_as_message,
}
