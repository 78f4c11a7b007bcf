"""`/v1/conversations`: lists of items that responses read from and add to, each with its latest branch."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dendrite_server.endpoints.generation import json_response, read_request
from dendrite_server.errors import NotFound
from dendrite_server.protocol.fields import Fields, invalid, wrong_type
from dendrite_server.responses.archive import CONVERSATION, archive_of
from dendrite_server.responses.items import Item, Names, new_owner, read_input
from dendrite_server.responses.paging import Page, read_include, read_page, read_query
from dendrite_server.responses.request import read_metadata
from dendrite_server.store import Record

Body = dict[str, Any]

MAX_NEW_ITEMS = 20


async def create_conversation(request: Request) -> Response:
    fields = Fields(await read_request(request))
    metadata, given = read_metadata(fields), _items(request, fields)
    fields.finish()
    id = new_owner(CONVERSATION)
    record = {
        "id": id,
        "created_at": int(time.time()),
        "metadata": metadata,
        "items": Names(id).name(given),
        "named": len(given),
        "tip": None,
    }
    archive_of(request).conversations.put(id, record)
    return json_response(_shown(record))


def _items(request: Request, fields: Fields) -> tuple[Item, ...]:
    """New items as given, references resolved."""
    value = fields.take("items")
    if value is not None and not isinstance(value, list):
        raise wrong_type("items", "an array of items", value)
    if len(value or ()) > MAX_NEW_ITEMS:
        raise invalid("items", f"at most {MAX_NEW_ITEMS} can be added at a time.")
    return archive_of(request).resolve(read_input(Fields({"items": value}), "items"), "items")


def _shown(record: Record) -> Body:
    return {
        "id": record["id"],
        "object": "conversation",
        "created_at": record["created_at"],
        "metadata": record["metadata"],
    }


def _record(request: Request) -> Record:
    return archive_of(request).conversation(request.path_params["conversation_id"])


async def get_conversation(request: Request) -> Response:
    return json_response(_shown(_record(request)))


async def update_conversation(request: Request) -> Response:
    fields = Fields(await read_request(request))
    record = {**_record(request), "metadata": read_metadata(fields)}
    fields.finish()
    archive_of(request).conversations.put(record["id"], record)
    return json_response(_shown(record))


async def delete_conversation(request: Request) -> Response:
    """The conversation goes; the responses made in it are kept by their own ids."""
    record = _record(request)
    archive_of(request).conversations.remove(record["id"])
    return json_response({"id": record["id"], "object": "conversation.deleted", "deleted": True})


# Items.


async def add_items(request: Request) -> Response:
    _check_include(request)
    fields = Fields(await read_request(request))
    fields.require("items")
    given = _items(request, fields)
    fields.finish()
    record = _record(request)
    added = Names(record["id"], record["named"]).name(given)
    grown = {**record, "items": [*record["items"], *added], "named": record["named"] + len(added)}
    archive_of(request).conversations.put(record["id"], grown)
    return json_response(Page(None, MAX_NEW_ITEMS, newest_first=False).body(added))


def _check_include(request: Request) -> None:
    query = read_query(request)
    read_include(query)
    query.finish()


async def list_items(request: Request) -> Response:
    query = read_query(request)
    read_include(query)
    page = read_page(query, newest_first=True)
    query.finish()
    return json_response(page.body(_record(request)["items"]))


async def get_item(request: Request) -> Response:
    _check_include(request)
    record = _record(request)
    return json_response(record["items"][_index(request, record)])


async def delete_item(request: Request) -> Response:
    """Without the item the branch no longer says what the conversation does, if it ever said the item."""
    record = _record(request)
    at = _index(request, record)
    items = [item for index, item in enumerate(record["items"]) if index != at]
    tip = record["tip"] if record["tip"] and record["tip"]["covers"] <= at else None
    archive_of(request).conversations.put(record["id"], {**record, "items": items, "tip": tip})
    return json_response(_shown(record))


def _index(request: Request, record: Record) -> int:
    id = request.path_params["item_id"]
    for index, item in enumerate(record["items"]):
        if item["id"] == id:
            return index
    raise NotFound(f"Item with id '{id}' not found.", param="item_id", code="item_not_found")


_ONE = "/v1/conversations/{conversation_id}"

routes = [
    Route("/v1/conversations", create_conversation, methods=["POST"]),
    Route(_ONE, get_conversation, methods=["GET"]),
    Route(_ONE, update_conversation, methods=["POST"]),
    Route(_ONE, delete_conversation, methods=["DELETE"]),
    Route(f"{_ONE}/items", add_items, methods=["POST"]),
    Route(f"{_ONE}/items", list_items, methods=["GET"]),
    Route(f"{_ONE}/items/{{item_id}}", get_item, methods=["GET"]),
    Route(f"{_ONE}/items/{{item_id}}", delete_item, methods=["DELETE"]),
]
