"""`Archive`: the responses, conversations and chat completions that callers asked to keep.

The shapes of the records are decided here. What went before a request is a `Past`: its items, and the
branch that has already said most of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request

from dendrite_core.errors import EngineClosed, RequestError
from dendrite_server.config import ServerConfig
from dendrite_server.errors import NotFound
from dendrite_server.responses.body import UNFINISHED, failure_of
from dendrite_server.responses.items import Item, owner_digits
from dendrite_server.store import Disk, Record, Store

CONVERSATION = "conv"
RESPONSE = "resp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tip:
    """The branch that says `head` and the first `covers` items of a past, and the tokens at its end."""

    branch_id: str
    prompt_branch_id: str
    head: str
    covers: int
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Past:
    items: tuple[Item, ...] = ()
    tip: Tip | None = None


class Archive:
    """What is kept, of each kind, within the server's bounds."""

    def __init__(self, config: ServerConfig) -> None:
        self.disk = Disk(config.store_path) if config.store_path else None
        bounds: dict[str, Any] = {
            "max_count": config.store_count,
            "max_bytes": config.store_bytes,
            "disk": self.disk,
        }
        # A response's context is the items of those before it.
        self.responses = Store("response", **bounds, shared=frozenset({"context"}))
        self.conversations = Store("conversation", **bounds)
        self.completions = Store("completion", **bounds)
        self._end_what_was_cut_off()

    def _end_what_was_cut_off(self) -> None:
        """Nobody goes on with what a process before this one was making in the background."""
        ending = failure_of(EngineClosed("the server ended before this response did"))
        for record in self.responses:
            body = record["body"]
            if body["status"] in UNFINISHED:
                ended = {**body, "status": ending.status, "error": ending.error}
                self.responses.put(body["id"], {**record, "body": ended})

    # Records by id.

    def response(self, id: str) -> Record:
        return self._found(self.responses, id, "Response", "response_id")

    def conversation(self, id: str, param: str = "conversation_id") -> Record:
        return self._found(self.conversations, id, "Conversation", param)

    def completion(self, id: str) -> Record:
        return self._found(self.completions, id, "Completion", "completion_id")

    def _found(self, store: Store, id: str, what: str, param: str) -> Record:
        record = store.get(id)
        if record is None:
            raise NotFound(f"{what} with id '{id}' not found.", param=param, code=f"{what.lower()}_not_found")
        return record

    # The past of a request.

    def past(self, previous_response_id: str | None, conversation_id: str | None) -> Past:
        """Raises `RequestError` when there is no such past."""
        if previous_response_id is not None:
            return self._past_of_response(previous_response_id)
        if conversation_id is not None:
            conversation = self.conversation(conversation_id, "conversation")
            return Past(tuple(conversation["items"]), _tip(conversation["tip"]))
        return Past()

    def _past_of_response(self, id: str) -> Past:
        record = self.responses.get(id)
        if record is None:
            message = f"Previous response with id '{id}' not found."
            raise RequestError(message, param="previous_response_id", code="previous_response_not_found")
        if record["body"]["status"] in UNFINISHED:
            message = f"Previous response '{id}' is still being generated."
            raise RequestError(message, param="previous_response_id")
        items = (*record["context"], *record["input"], *record["body"]["output"])
        return Past(items, _tip(record["tip"]))

    # Items by id.

    def resolve(self, items: Iterable[Item], path: str) -> tuple[Item, ...]:
        """Items with the references among them replaced by what they refer to."""
        return tuple(
            self._referred(item["id"], f"{path}[{index}].id") if item["type"] == "item_reference" else item
            for index, item in enumerate(items)
        )

    def _referred(self, id: str, param: str) -> Item:
        digits = owner_digits(id)
        response = self.responses.get(f"{RESPONSE}_{digits}")
        conversation = self.conversations.get(f"{CONVERSATION}_{digits}") or {"items": []}
        places = [conversation["items"]]
        if response is not None:
            places += [response["input"], response["body"]["output"]]
        for item in (item for place in places for item in place):
            if item["id"] == id:
                found: Item = item
                return found
        raise NotFound(f"Item with id '{id}' not found.", param=param, code="item_not_found")

    # Keeping.

    def keep_response(self, body: Record, past: Past, items: tuple[Item, ...], **more: Any) -> None:
        """`more` may be the `tip`, and the `frames` of a stream that can be read again."""
        record = {"body": body, "context": past.items, "input": items, "tip": None, **more}
        self.responses.put(body["id"], record)

    def extend_conversation(self, id: str, before: int, items: tuple[Item, ...], tip: Tip | None) -> None:
        """Add what one response read and said. The tip moves on unless others spoke in between."""
        conversation = self.conversations.get(id)
        if conversation is None:
            return
        alone = len(conversation["items"]) == before
        grown = [*conversation["items"], *items]
        moved = record_of(tip) if alone else conversation["tip"]
        self.conversations.put(id, {**conversation, "items": grown, "tip": moved})


def record_of(tip: Tip | None) -> Record | None:
    return None if tip is None else asdict(tip)


def _tip(record: Record | None) -> Tip | None:
    return None if record is None else Tip(**{**record, "tail": tuple(record["tail"])})


def archive_of(request: Request) -> Archive:
    archive: Archive = request.app.state.archive
    return archive
