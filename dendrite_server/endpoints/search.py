"""`/v1/search`: a search as a resource, with events while it grows; and `search` in a chat completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.search import EngineBackend, Search
from dendrite_server.endpoints.generation import json_response, read_as, read_request
from dendrite_server.protocol.response import Body, encode_json
from dendrite_server.protocol.stream import DONE
from dendrite_server.search.request import SearchRequest, parse_chat_search, parse_search
from dendrite_server.search.running import Running, Searches, note_scores
from dendrite_server.service import Service, service_of
from dendrite_server.transport import EventStream, unless_gone


def searches_of(request: Request) -> Searches:
    searches: Searches = request.app.state.searches
    return searches


async def create_search(request: Request) -> Response:
    """Waits for the end, or streams events, or returns at once with `background`."""
    service = service_of(request)
    asked = read_as(request, await read_request(request), parse_search)
    running = await _running(request, asked)
    if asked.stream:
        return _event_stream(service, _frames(service, running))
    if asked.background:
        running.begin()
    else:
        await unless_gone(request.receive, running.run())
        await service.kept()
    return json_response(running.body())


async def _running(request: Request, asked: SearchRequest) -> Running:
    """A search that can begin, known by its id."""
    service = service_of(request)
    service.refuse_if_draining()
    model = service.model_name(asked.model)
    for params in asked.plan.sampled:
        await service.prepare(params)
    backend = EngineBackend(service.engine, namespace=asked.namespace, priority=asked.priority)
    plan = asked.plan
    noted, budget = note_scores(service.engine), plan.budget
    search = Search(
        backend, asked.prompt, plan.method, budget=budget, seed=plan.seed, keep=True, on_event=noted
    )
    running = Running(search, plan, model, service.fingerprint)
    searches_of(request).add(running)
    return running


async def _frames(service: Service, running: Running) -> AsyncGenerator[bytes, None]:
    """`created`, the search's events as they happen, `completed` with the whole resource."""
    events = running.events()
    yield _frame("created", running.body())
    try:
        async for event in events:
            yield _frame(event.kind, {"search_id": running.id, **event.as_dict()})
    finally:
        await events.aclose()  # type: ignore[attr-defined]
    await service.kept()
    yield _frame("completed", running.body())


def _frame(kind: str, body: Body) -> bytes:
    return f"event: {kind}\ndata: {encode_json(body)}\n\n".encode()


def _event_stream(service: Service, frames: AsyncGenerator[bytes, None]) -> Response:
    return EventStream(frames, keep_alive=service.config.keep_alive, patience=service.config.patience)


async def get_search(request: Request) -> Response:
    return json_response(searches_of(request).find(request.path_params["search_id"]).body())


async def cancel_search(request: Request) -> Response:
    """Ends it and frees every branch of it, also one that has ended and was kept."""
    running = searches_of(request).find(request.path_params["search_id"])
    await running.cancel()
    return json_response(running.body())


async def delete_search(request: Request) -> Response:
    id = request.path_params["search_id"]
    await searches_of(request).remove(id)
    return json_response({"id": id, "object": "search.deleted", "deleted": True})


# One better answer, and nothing else changed.


async def search_chat(request: Request, body: Body) -> Response:
    """A chat completion whose `search` says how to look for its answer."""
    service = service_of(request)
    asked = read_as(request, body, parse_chat_search)
    running = await _running(request, asked)
    if asked.stream:
        return _event_stream(service, _chunks(service, running, asked))
    await unless_gone(request.receive, running.run())
    await service.kept()
    return json_response({**running.completion(), "search": _summary(running)})


async def _chunks(service: Service, running: Running, asked: SearchRequest) -> AsyncGenerator[bytes, None]:
    """The answer as the chunks of a stream, once there is one."""
    await running.run()
    await service.kept()
    whole = running.completion()
    head = running.header("chat.completion.chunk").body()
    if asked.include_usage:
        head["usage"] = whole["usage"] if asked.continuous_usage else None
    said = whole["choices"][0]
    deltas = [{"role": "assistant", "content": ""}, {"content": said["message"]["content"]}, {}]
    for at, delta in enumerate(deltas):
        ended = said["finish_reason"] if at == 2 else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ended}
        more = {"branch_id": said["branch_id"]} if at == 0 else {}
        extra = {"search": _summary(running)} if at == 2 else {}
        yield _data({**head, "choices": [{**choice, **more}], **extra})
    if asked.include_usage:
        yield _data({**head, "choices": [], "usage": whole["usage"]})
    yield DONE


def _data(body: Body) -> bytes:
    return f"data: {encode_json(body)}\n\n".encode()


def _summary(running: Running) -> Body:
    body = running.body()
    return {name: body[name] for name in ("id", "method", "seed", "result", "tree")}


routes = [
    Route("/v1/search", create_search, methods=["POST"]),
    Route("/v1/search/{search_id}", get_search, methods=["GET"]),
    Route("/v1/search/{search_id}", delete_search, methods=["DELETE"]),
    Route("/v1/search/{search_id}/cancel", cancel_search, methods=["POST"]),
]
