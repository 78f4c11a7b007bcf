"""`/v1/responses`: making responses, in the foreground and in the background, and what becomes of them.

`previous_response_id` is an edge of the tree: a response is a child of the branch of the one it follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.engine.messages import Request as EngineRequest
from dendrite_core.errors import BranchNotFound, RequestError
from dendrite_server.endpoints.generation import engine_requests, json_response, read_as, read_request
from dendrite_server.protocol.fields import invalid, missing, unsupported
from dendrite_server.protocol.request import ChatRequest
from dendrite_server.responses.archive import RESPONSE, Archive, Past, archive_of
from dendrite_server.responses.body import Body, base_body
from dendrite_server.responses.items import Names, new_owner, require_calls
from dendrite_server.responses.paging import read_include, read_page, read_query
from dendrite_server.responses.request import ResponseRequest, parse_response, parse_token_count
from dendrite_server.responses.run import Run, count_tokens
from dendrite_server.responses.writer import Writer, event_frame
from dendrite_server.service import Service, service_of
from dendrite_server.store import Record
from dendrite_server.transport import EventStream, unless_gone

Runs = dict[str, Run]


async def create_response(request: Request) -> Response:
    service = service_of(request)
    asked = read_as(request, await read_request(request), parse_response)
    run = _run(request, asked)
    if asked.background:
        return await _in_background(request, run)
    if asked.stream:
        return _event_stream(service, _frames(run))
    return json_response(await unless_gone(request.receive, _finished(run)))


def _run(request: Request, asked: ResponseRequest) -> Run:
    service, archive = service_of(request), archive_of(request)
    model = service.model_name(asked.chat.model)
    id = new_owner(RESPONSE)
    names = Names(id)
    asked = replace(asked, items=names.name(archive.resolve(asked.items, "input")))
    writer = Writer(base_body(id, model, asked.echo), names, service.engine.tokenizer.token_bytes)

    def make(chat: ChatRequest, prompt: tuple[int, ...], joint: tuple[int, ...]) -> EngineRequest:
        return engine_requests(request, chat, [prompt], joint)[0]

    return Run(service, archive, asked, _past(archive, asked), writer, make)


def _past(archive: Archive, asked: ResponseRequest) -> Past:
    past = archive.past(asked.previous_response_id, asked.conversation_id)
    if not past.items and not asked.items:
        raise missing("input")
    require_calls(past.items, asked.items)
    return past


def _event_stream(service: Service, frames: AsyncGenerator[bytes, None]) -> Response:
    return EventStream(frames, keep_alive=service.config.keep_alive, patience=service.config.patience)


async def _frames(run: Run) -> AsyncGenerator[bytes, None]:
    # Closed by hand: a generator that is merely dropped would end its run some time later.
    events = run.events()
    try:
        async for batch in events:
            yield "".join(map(event_frame, batch)).encode()
    finally:
        await events.aclose()


async def _finished(run: Run) -> Body:
    events = run.events()
    try:
        async for _ in events:
            pass
    finally:
        await events.aclose()
    return run.body


async def _in_background(request: Request, run: Run) -> Response:
    await run.submit()
    run.queue()
    runs, id = runs_of(request), run.body["id"]
    runs[id] = run
    run.begin().add_done_callback(lambda _: runs.pop(id))
    if run.asked.stream:
        return _event_stream(service_of(request), run.follow(-1))
    return json_response(run.body)


# What becomes of a response.


async def get_response(request: Request) -> Response:
    query = read_query(request)
    read_include(query)
    stream, after = query.boolean("stream", False), query.integer("starting_after", low=0)
    if query.boolean("include_obfuscation", False):
        raise unsupported("include_obfuscation", "Events are not padded here.")
    query.finish()
    run, record = _find(request)
    if stream:
        return _event_stream(service_of(request), _replay(run, record, -1 if after is None else after))
    if after is not None:
        raise invalid("starting_after", "it is only allowed when 'stream' is true.")
    return json_response(run.body if run else record["body"])


def _find(request: Request) -> tuple[Run | None, Record]:
    """A response by id, and who is still making it."""
    id = request.path_params["response_id"]
    return runs_of(request).get(id), archive_of(request).response(id)


def _replay(run: Run | None, record: Record, after: int) -> AsyncGenerator[bytes, None]:
    if run is not None and run.asked.stream:
        return run.follow(after)
    if "frames" not in record:
        raise invalid("stream", "only what was created with 'background' and 'stream' can be streamed again.")
    return _told(record["frames"][after + 1 :])


async def _told(frames: list[str]) -> AsyncGenerator[bytes, None]:
    yield "".join(frames).encode()


async def cancel_response(request: Request) -> Response:
    """Stop a background response; one that has ended is shown as it is."""
    run, record = _find(request)
    if not record["body"]["background"]:
        raise RequestError("Only responses created with 'background' can be cancelled.", param="response_id")
    if run is not None:
        await _stop(run)
    return json_response(run.body if run else record["body"])


async def _stop(run: Run) -> None:
    run.cancel()
    await run.ended()


async def delete_response(request: Request) -> Response:
    """Forget a response and give its branch back; those that follow it go on."""
    run, record = _find(request)
    archive, id = archive_of(request), request.path_params["response_id"]
    if run is not None:
        await _stop(run)
        record = archive.response(id)
    archive.responses.remove(id)
    await _release(service_of(request), record)
    return json_response({"id": id, "object": "response", "deleted": True})


async def _release(service: Service, record: Record) -> None:
    tip = record["tip"] or {}
    for name in ("branch_id", "prompt_branch_id"):
        try:
            if name in tip:
                await asyncio.wrap_future(service.engine.release(tip[name], prune=False))
        except BranchNotFound:
            continue


async def list_input_items(request: Request) -> Response:
    """Everything the response was made from: what went before, and its own input."""
    query = read_query(request)
    read_include(query)
    page = read_page(query, newest_first=True)
    query.finish()
    record = archive_of(request).response(request.path_params["response_id"])
    return json_response(page.body([*record["context"], *record["input"]]))


async def count_input_tokens(request: Request) -> Response:
    service, archive = service_of(request), archive_of(request)
    asked = parse_token_count(await read_request(request), service.limits)
    service.model_name(asked.chat.model)
    asked = replace(asked, items=archive.resolve(asked.items, "input"))
    count = await count_tokens(service, asked, _past(archive, asked))
    return json_response({"object": "response.input_tokens", "input_tokens": count})


def runs_of(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


_ONE = "/v1/responses/{response_id}"

routes = [
    Route("/v1/responses", create_response, methods=["POST"]),
    Route("/v1/responses/input_tokens", count_input_tokens, methods=["POST"]),
    Route(_ONE, get_response, methods=["GET"]),
    Route(_ONE, delete_response, methods=["DELETE"]),
    Route(f"{_ONE}/cancel", cancel_response, methods=["POST"]),
    Route(f"{_ONE}/input_items", list_input_items, methods=["GET"]),
]
