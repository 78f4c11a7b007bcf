"""`Writer`: what a model says, piece by piece, as output items and the events that tell of them.

Pieces are the seam to whatever reads the model's text: plain text makes one message; a reader that finds
tool calls or reasoning says so by pieces of those kinds, and the right items and events follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dendrite_core.engine.messages import ChoiceDelta, Started, TokenLogprob
from dendrite_server.protocol.response import TokenBytes, chat_logprobs, encode_json, tree_body
from dendrite_server.responses.body import IN_PROGRESS, QUEUED, Body, Ending, response_body
from dendrite_server.responses.items import Item, Names

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """More of the message to the user."""

    text: str
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it speaks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A function call, by name; its arguments follow."""

    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of the arguments."""

    text: str


Piece = Text | Reasoning | CallBegins | CallArguments
Reader = Callable[[ChoiceDelta], Sequence[Piece]]


def event_frame(event: Event) -> str:
    return f"event: {event['type']}\ndata: {encode_json(event)}\n\n"


class Writer:
    """One answer being written. Event n has sequence number n; the last one ends the answer."""

    def __init__(self, base: Body, names: Names, token_bytes: TokenBytes) -> None:
        self.output: list[Item] = []
        self.ending = IN_PROGRESS
        self._base = base
        self._names = names
        self._token_bytes = token_bytes
        self._sequence = 0
        self._created = False
        self._item: Item | None = None
        self._texts: list[str] = []
        self._logprobs: list[Body] = []

    @property
    def started(self) -> bool:
        return "tree" in self._base

    def body(self) -> Body:
        """The response object as it stands; an item that is still being written is not yet in it."""
        said = [item for item in self.output if item is not self._item]
        return response_body(self._base, said, self.ending)

    # The life of the response.

    def queue(self) -> list[Event]:
        self.ending = QUEUED
        return [*self._create(), self._event("response.queued", response=self.body())]

    def start(self, started: Started) -> list[Event]:
        self._base |= {"branch_id": started.branch_ids[0], "tree": tree_body(started)}
        self.ending = IN_PROGRESS
        return [*self._create(), self._event("response.in_progress", response=self.body())]

    def _create(self) -> list[Event]:
        if self._created:
            return []
        self._created = True
        return [self._event("response.created", response=self.body())]

    def finish(self, ending: Ending) -> list[Event]:
        """Close what is open and say how it ended. There is no event of its own for a cancellation."""
        events = self._create()
        if not self.output and ending.status in ("completed", "incomplete"):
            events += self._enter("message")
        events += self._leave("completed" if ending.status == "completed" else "incomplete")
        self.ending = ending
        kind = "incomplete" if ending.status == "cancelled" else ending.status
        return [*events, self._event(f"response.{kind}", response=self.body())]

    # What the model says.

    def write(self, piece: Piece) -> list[Event]:
        match piece:
            case Text():
                return self._write_text(piece)
            case Reasoning():
                events = self._enter("reasoning")
                delta = self._event("response.reasoning_text.delta", **self._part_place(), delta=piece.text)
            case CallBegins():
                return self._open("function_call", call_id=piece.call_id, name=piece.name, arguments="")
            case CallArguments():
                assert self._item is not None, "arguments follow the name of the function"
                events = []
                delta = self._event(
                    "response.function_call_arguments.delta", **self._place(), delta=piece.text
                )
        self._texts.append(piece.text)
        return [*events, delta]

    def _write_text(self, piece: Text) -> list[Event]:
        shown: list[Body] = []
        if piece.logprobs:
            shown = chat_logprobs(piece.logprobs, self._token_bytes)["content"]
        events = self._enter("message")
        self._texts.append(piece.text)
        self._logprobs += shown
        place = self._part_place()
        return [*events, self._event("response.output_text.delta", **place, delta=piece.text, logprobs=shown)]

    # Items.

    def _enter(self, kind: str) -> list[Event]:
        """Go on with an item of that kind, or begin one."""
        if self._item is not None and self._item["type"] == kind:
            return []
        if kind == "reasoning":
            return self._open(kind, summary=[], content=[])
        return self._open(kind, role="assistant", content=[])

    def _open(self, kind: str, **fields: Any) -> list[Event]:
        events = self._leave("completed")
        id = self._names.new(_PREFIXES[kind])
        self._item = {"id": id, "type": kind, "status": "in_progress", **fields}
        self.output.append(self._item)
        events.append(self._event("response.output_item.added", **self._index(), item={**self._item}))
        if "content" in fields:
            part = self._part("")
            events.append(self._event("response.content_part.added", **self._part_place(), part=part))
        return events

    def _leave(self, status: str) -> list[Event]:
        """The item that is being written is whole, or will not be."""
        if self._item is None:
            return []
        text = "".join(self._texts)
        events = self._leave_call(text) if self._item["type"] == "function_call" else self._leave_part(text)
        self._item["status"] = status
        done = self._event("response.output_item.done", **self._index(), item={**self._item})
        self._item, self._texts, self._logprobs = None, [], []
        return [*events, done]

    def _leave_call(self, text: str) -> list[Event]:
        assert self._item is not None
        self._item["arguments"] = text
        name = self._item["name"]
        return [
            self._event("response.function_call_arguments.done", **self._place(), name=name, arguments=text)
        ]

    def _leave_part(self, text: str) -> list[Event]:
        assert self._item is not None
        part, place = self._part(text), self._part_place()
        self._item["content"] = [part]
        if self._item["type"] == "reasoning":
            said = self._event("response.reasoning_text.done", **place, text=text)
        else:
            said = self._event("response.output_text.done", **place, text=text, logprobs=[*self._logprobs])
        return [said, self._event("response.content_part.done", **place, part=part)]

    def _part(self, text: str) -> Body:
        assert self._item is not None
        if self._item["type"] == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*self._logprobs]}

    def _index(self) -> Body:
        return {"output_index": len(self.output) - 1}

    def _place(self) -> Body:
        assert self._item is not None
        return {"item_id": self._item["id"], **self._index()}

    def _part_place(self) -> Body:
        return {**self._place(), "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, **fields, "sequence_number": self._sequence}
        self._sequence += 1
        return event


_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}
