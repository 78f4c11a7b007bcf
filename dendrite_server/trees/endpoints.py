"""`/v1/trees`: which trees there are, one of them as JSON or as a picture, and both while they change."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_server.endpoints.generation import json_response
from dendrite_server.protocol.response import Body
from dendrite_server.responses.paging import read_page, read_query
from dendrite_server.service import service_of
from dendrite_server.transport import EventStream
from dendrite_server.trees.body import branch_body
from dendrite_server.trees.drawing import Drawing
from dendrite_server.trees.graph_text import as_dot, as_mermaid
from dendrite_server.trees.readers import read
from dendrite_server.trees.svg import as_svg

FORMATS = ("json", "mermaid", "dot", "svg")
_PICTURES = {
    "mermaid": (as_mermaid, "text/vnd.mermaid"),
    "dot": (as_dot, "text/vnd.graphviz"),
    "svg": (as_svg, "image/svg+xml"),
}
# A picture opened by itself is a page of this server; nothing in it is to run or to be fetched.
_INERT = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}


async def list_trees(request: Request) -> Response:
    """The trees there are, those that changed last first, a page at a time."""
    query = read_query(request)
    page = read_page(query, newest_first=True)
    query.finish()
    feed = service_of(request).feed
    await feed.begin()
    await feed.catch_up()
    return json_response(page.body([tree.summary() for tree in feed.trees.values()]))


async def get_tree(request: Request) -> Response:
    """All branches of a tree, every one after its parent; or a drawing of it."""
    query = read_query(request)
    format = query.choice("format", FORMATS) or "json"
    query.finish()
    name = request.path_params["tree_id"]
    branches = await asyncio.wrap_future(service_of(request).engine.describe_tree(name))
    if format == "json":
        body: Body = {"id": name, "object": "tree", "branches": [branch_body(one) for one in branches]}
        return json_response(body)
    draw, media = _PICTURES[format]
    text = await asyncio.to_thread(lambda: draw(Drawing.of(branches)))
    return Response(text, headers=_INERT, media_type=media)


async def watch_tree(request: Request) -> Response:
    return _events(request, request.path_params["tree_id"])


async def watch_trees(request: Request) -> Response:
    return _events(request, None)


def _events(request: Request, tree_id: str | None) -> Response:
    """Events from now on, or from after the one whose id the reader names."""
    read_query(request).finish()
    service = service_of(request)
    frames = read(service.feed, tree_id, request.headers.get("last-event-id"))
    config = service.config
    return EventStream(frames, keep_alive=config.keep_alive, patience=config.patience)


routes = [
    Route("/v1/trees", list_trees, methods=["GET"]),
    Route("/v1/trees/events", watch_trees, methods=["GET"]),
    Route("/v1/trees/{tree_id}", get_tree, methods=["GET"]),
    Route("/v1/trees/{tree_id}/events", watch_tree, methods=["GET"]),
]
