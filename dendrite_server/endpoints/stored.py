"""Stored chat completions: what `store: true` keeps of a chat, and the endpoints that show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.engine.completion import Completion, collect
from dendrite_core.engine.messages import Progress, Started
from dendrite_server.endpoints.generation import json_response, read_request
from dendrite_server.protocol.fields import Fields
from dendrite_server.protocol.stream import Encoder
from dendrite_server.responses.archive import archive_of
from dendrite_server.responses.paging import read_page, read_query
from dendrite_server.responses.request import read_metadata
from dendrite_server.store import Record

Body = dict[str, Any]
Whole = Callable[[list[Completion]], Body]
MakeEncoder = Callable[[Started], Encoder]

# Settings that a stored completion repeats, with their values when they were not given.
_SETTINGS: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": None,
    "tools": None,
    "tool_choice": None,
    "response_format": None,
}


def keeping(request: Request, asked: Body, whole: Whole, encoder: MakeEncoder) -> tuple[Whole, MakeEncoder]:
    """The two ways to answer a chat, which now also keep the answer if that was asked for."""
    if not asked.get("store"):
        return whole, encoder
    metadata = read_metadata(Fields(asked))

    def keep(completions: list[Completion]) -> Body:
        body = whole(completions)
        settings = {name: asked.get(name, default) for name, default in _SETTINGS.items()}
        shown = {**body, **settings, "metadata": metadata, "request_id": request.scope["dendrite.request_id"]}
        record = {"body": shown, "messages": asked["messages"], "kept_ns": time.time_ns()}
        archive_of(request).completions.put(body["id"], record)
        return body

    return keep, lambda started: KeepingEncoder(encoder(started), keep)


class KeepingEncoder:
    """A stream's encoder that also gathers the whole answer and has it kept just before the end."""

    def __init__(self, encoder: Encoder, keep: Whole) -> None:
        self._encoder = encoder
        self._keep = keep
        self._started: list[Started] = []
        self._progress: list[Progress] = []

    def start(self, prompt: int, started: Started) -> bytes:
        self._started.append(started)
        return self._encoder.start(prompt, started)

    def news(self, prompt: int, progress: Progress) -> bytes:
        self._progress.append(progress)
        return self._encoder.news(prompt, progress)

    def end(self) -> bytes:
        (started,) = self._started
        self._keep([collect(started, len(started.branch_ids), self._progress)])
        return self._encoder.end()


async def list_completions(request: Request) -> Response:
    query = read_query(request)
    page = read_page(query, newest_first=False)
    model, wanted = query.string("model"), query.mapping("metadata")
    query.finish()
    records = sorted(archive_of(request).completions, key=lambda record: record["kept_ns"])
    bodies = [record["body"] for record in records]
    return json_response(page.body([body for body in bodies if _fits(body, model, wanted)]))


def _fits(body: Body, model: str | None, wanted: dict[str, str]) -> bool:
    return model in (None, body["model"]) and wanted.items() <= body["metadata"].items()


def _record(request: Request) -> Record:
    return archive_of(request).completion(request.path_params["completion_id"])


async def get_completion(request: Request) -> Response:
    return json_response(_record(request)["body"])


async def update_completion(request: Request) -> Response:
    fields = Fields(await read_request(request))
    metadata = read_metadata(fields)
    fields.finish()
    record = _record(request)
    body = {**record["body"], "metadata": metadata}
    archive_of(request).completions.put(body["id"], {**record, "body": body})
    return json_response(body)


async def delete_completion(request: Request) -> Response:
    """Only what was kept goes; the branches have names and endpoints of their own."""
    id = _record(request)["body"]["id"]
    archive_of(request).completions.remove(id)
    return json_response({"id": id, "object": "chat.completion.deleted", "deleted": True})


async def list_messages(request: Request) -> Response:
    """The messages that the completion answered."""
    query = read_query(request)
    page = read_page(query, newest_first=False)
    query.finish()
    record = _record(request)
    id = record["body"]["id"]
    return json_response(
        page.body([_message(f"{id}-{index}", one) for index, one in enumerate(record["messages"])])
    )


def _message(id: str, message: Body) -> Body:
    parts = message.get("content")
    shown = {"id": id, "refusal": None, "name": None, **message, "content_parts": None}
    return {**shown, "content": None, "content_parts": parts} if isinstance(parts, list) else shown


_ONE = "/v1/chat/completions/{completion_id}"

routes = [
    Route("/v1/chat/completions", list_completions, methods=["GET"]),
    Route(_ONE, get_completion, methods=["GET"]),
    Route(_ONE, update_completion, methods=["POST"]),
    Route(_ONE, delete_completion, methods=["DELETE"]),
    Route(f"{_ONE}/messages", list_messages, methods=["GET"]),
]
