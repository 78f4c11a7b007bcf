"""`/v1/branches/{id}`: looking at a branch, holding it, giving it back."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.engine.engine import Engine
from dendrite_core.errors import BranchNotFound
from dendrite_server.endpoints.generation import json_response, read_request
from dendrite_server.protocol.fields import Fields, invalid, wrong_type
from dendrite_server.protocol.identity import as_branch_id
from dendrite_server.protocol.response import Body
from dendrite_server.responses.paging import read_page, read_query
from dendrite_server.service import service_of
from dendrite_server.trees.body import branch_body

T = TypeVar("T")


async def get_branch(request: Request) -> Response:
    engine = service_of(request).engine
    return json_response(branch_body(await _answer(engine.describe(_branch_id(request)))))


async def list_children(request: Request) -> Response:
    """The branches forked from this one, a page at a time."""
    query = read_query(request)
    page = read_page(query, newest_first=False)
    query.finish()
    engine = service_of(request).engine
    parent = await _answer(engine.describe(_branch_id(request)))
    listed = page.body([{"id": name} for name in parent.children])
    children = await asyncio.gather(*(_child(engine, one["id"]) for one in listed["data"]))
    return json_response({**listed, "data": [child for child in children if child is not None]})


async def _child(engine: Engine, name: str) -> Body | None:
    """A child as it is now; None when it was released since it was listed."""
    try:
        return branch_body(await _answer(engine.describe(name)))
    except BranchNotFound:
        return None


async def update_branch(request: Request) -> Response:
    """Pins for a time, unpins, or adds to the metadata."""
    name = _branch_id(request)
    fields = Fields(await read_request(request))
    pinned, ttl = fields.boolean("pinned"), fields.number("ttl")
    metadata = fields.take("metadata")
    fields.finish()
    if ttl is not None and not (pinned and ttl > 0):
        raise invalid("ttl", "it is a positive number of seconds, together with 'pinned': true.")
    if metadata is not None and not isinstance(metadata, dict):
        raise wrong_type("metadata", "an object", metadata)
    service = service_of(request)
    updated = await _answer(service.engine.update(name, pinned=pinned, ttl=ttl, metadata=metadata))
    await service.kept()
    return json_response(branch_body(updated))


async def delete_branch(request: Request) -> Response:
    """Prunes: the branch goes with everything below it."""
    name = _branch_id(request)
    service = service_of(request)
    freed = await _answer(service.engine.release(name, prune=True))
    await service.kept()
    return json_response({"id": name, "object": "branch.deleted", "deleted": True, "released": freed})


def _branch_id(request: Request) -> str:
    return as_branch_id(request.path_params["branch_id"], "branch_id")


async def _answer(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)


routes = [
    Route("/v1/branches/{branch_id}", get_branch, methods=["GET"]),
    Route("/v1/branches/{branch_id}/children", list_children, methods=["GET"]),
    Route("/v1/branches/{branch_id}", update_branch, methods=["POST"]),
    Route("/v1/branches/{branch_id}", delete_branch, methods=["DELETE"]),
]
