"""What an answer says, in chat's shapes: content, thoughts and calls, whole and as deltas of a stream."""

from __future__ import annotations

from typing import Any

from dendrite_server.tools.events import CallArguments, CallStart, Content, Event, Reasoning
from dendrite_server.tools.reading import Speech

Body = dict[str, Any]


def message_of(speech: Speech, branch_id: str, text: str) -> Body:
    """The speaking part of a message. Content is null when the answer is nothing but calls."""
    reading = speech.reading()
    said: list[str] = []
    thoughts: list[str] = []
    calls: list[Body] = []
    for event in [*reading.push(text), *reading.finish()]:
        match event:
            case Content():
                said.append(event.text)
            case Reasoning():
                thoughts.append(event.text)
            case CallStart():
                calls.append(_call(speech, branch_id, event))
            case CallArguments():
                calls[event.index]["function"]["arguments"] += event.fragment
    content = "".join(said)
    body: Body = {"content": None if calls and not content.strip() else content}
    if thoughts and speech.shows_thoughts:
        body["reasoning_content"] = body["reasoning"] = "".join(thoughts)
    if calls and speech.legacy:
        body["function_call"] = calls[0]["function"]
    elif calls:
        body["tool_calls"] = calls
    return body


def finish_reason(speech: Speech, reason: str | None, calls: bool) -> str | None:
    """An answer that ended by itself with calls in it waits for their results."""
    if not calls or reason != "stop":
        return reason
    return "function_call" if speech.legacy else "tool_calls"


class Deltas:
    """One choice of a stream: texts in, the deltas that tell of them out."""

    def __init__(self, speech: Speech, branch_id: str) -> None:
        self._speech = speech
        self._branch_id = branch_id
        self._reading = speech.reading()

    @property
    def calls(self) -> bool:
        return self._reading.calls > 0

    def push(self, text: str, last: bool) -> list[Body]:
        events = self._reading.push(text)
        if last:
            events = [*events, *self._reading.finish()]
        hidden = () if self._speech.shows_thoughts else (Reasoning,)
        return [self._delta(event) for event in events if not isinstance(event, hidden)]

    def _delta(self, event: Event) -> Body:
        match event:
            case Content():
                return {"content": event.text}
            case Reasoning():
                return {"reasoning_content": event.text, "reasoning": event.text}
            case CallStart() if self._speech.legacy:
                return {"function_call": {"name": event.name, "arguments": ""}}
            case CallArguments() if self._speech.legacy:
                return {"function_call": {"arguments": event.fragment}}
            case CallStart():
                return {"tool_calls": [{"index": event.index, **_call(self._speech, self._branch_id, event)}]}
            case CallArguments():
                part = {"index": event.index, "function": {"arguments": event.fragment}}
                return {"tool_calls": [part]}


def _call(speech: Speech, branch_id: str, start: CallStart) -> Body:
    assert speech.calls is not None, "only a format's parser finds calls"
    id = speech.calls.call_id(branch_id, start.index)
    return {"id": id, "type": "function", "function": {"name": start.name, "arguments": ""}}
