"""`/v1/branches/{id}` and `/v1/trees/{id}`: looking at the tree, and giving parts of it back."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_core.engine.messages import BranchInfo
from dendrite_server.endpoints.generation import json_response
from dendrite_server.protocol.identity import as_branch_id
from dendrite_server.protocol.response import Body
from dendrite_server.service import service_of

T = TypeVar("T")


async def get_branch(request: Request) -> Response:
    engine = service_of(request).engine
    return json_response(branch_body(await _answer(engine.describe(_branch_id(request)))))


async def delete_branch(request: Request) -> Response:
    """Prunes: the branch goes with everything below it."""
    name = _branch_id(request)
    freed = await _answer(service_of(request).engine.release(name, prune=True))
    return json_response({"id": name, "object": "branch.deleted", "deleted": True, "released": freed})


async def get_tree(request: Request) -> Response:
    """All branches of a tree, every one after its parent."""
    name = request.path_params["tree_id"]
    branches = await _answer(service_of(request).engine.describe_tree(name))
    return json_response({"id": name, "object": "tree", "branches": [branch_body(one) for one in branches]})


def branch_body(info: BranchInfo) -> Body:
    return {
        "id": info.branch_id,
        "object": "branch",
        "kind": info.kind,
        "tree_id": info.tree_id,
        "parent_id": info.parent_id,
        "children": list(info.children),
        "status": "running" if info.running else "idle",
        "finish_reason": info.finish_reason,
        "tokens": info.length,
        "own_tokens": info.own_tokens,
        "kv_tokens": info.kv_tokens,
        "text": info.text,
        "metadata": dict(info.metadata),
    }


def _branch_id(request: Request) -> str:
    return as_branch_id(request.path_params["branch_id"], "branch_id")


async def _answer(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)


routes = [
    Route("/v1/branches/{branch_id}", get_branch, methods=["GET"]),
    Route("/v1/branches/{branch_id}", delete_branch, methods=["DELETE"]),
    Route("/v1/trees/{tree_id}", get_tree, methods=["GET"]),
]
