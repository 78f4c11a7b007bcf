"""`/openapi.json`: OpenAPI 3.1 of every route, its body from the field tables and its answers by shape.

The document is made from the routes themselves; a route without a row here is a failing test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.routing import BaseRoute, Route

from dendrite_server.description.answers import ANSWERS
from dendrite_server.description.parameters import (
    BOOLEAN,
    BRANCH_UPDATE,
    CHAT,
    COMPLETION,
    CONVERSATION,
    DETOKENIZE,
    HARMLESS_SCHEMAS,
    ITEMS,
    METADATA,
    RESPONSE,
    SEARCH,
    STRING,
    TOKENIZE,
    Schema,
    Table,
    list_of,
    ref,
    word,
)
from dendrite_server.protocol import request as chat
from dendrite_server.responses import request as responses

JSON = "application/json"
EVENTS = "text/event-stream"

_PAGE: Table = {
    "after": STRING,
    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    "order": word("asc", "desc"),
}
_INCLUDE: Table = {"include": list_of(word(*responses.INCLUDABLE))}


def _harmless(names: Iterable[str]) -> Table:
    return {name: HARMLESS_SCHEMAS[name] for name in names}


def _shared(names: Iterable[str]) -> Table:
    return {name: CHAT[name] for name in names}


CHAT_BODY: Table = {**_harmless(chat.HARMLESS), **CHAT}
COMPLETION_BODY: Table = {**_harmless(chat.HARMLESS), **COMPLETION}
RESPONSE_BODY: Table = {**_harmless(responses.HARMLESS), **_shared(responses.SHARED), **RESPONSE}
COUNTED = ("conversation", "input", "instructions", "model", "parallel_tool_calls", "previous_response_id")
COUNTED_BODY: Table = {
    name: RESPONSE_BODY[name]
    for name in (*COUNTED, "reasoning", "text", "tool_choice", "tools", "truncation", "chat_template_kwargs")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path: what it does, the fields it takes and the name of its answer's shape."""

    summary: str
    answer: str
    body: Table | None = None
    required: tuple[str, ...] = ()
    query: Table | None = None
    media: tuple[str, ...] = (JSON,)


_STREAMED = (JSON, EVENTS)
_CHATS, _RESPONSES, _CONVERSATIONS = "/v1/chat/completions", "/v1/responses", "/v1/conversations"

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", _CHATS): Operation(
        summary="Complete a conversation; every choice is a branch.",
        body={**CHAT_BODY, "search": {"type": "object", "description": "How to look for the answer."}},
        required=("messages",),
        answer="ChatCompletion",
        media=_STREAMED,
    ),
    ("GET", _CHATS): Operation(
        summary="List stored completions.", answer="ChatCompletionList", query={**_PAGE, "model": STRING}
    ),
    ("GET", f"{_CHATS}/{{completion_id}}"): Operation(
        summary="A stored completion.", answer="ChatCompletion"
    ),
    ("POST", f"{_CHATS}/{{completion_id}}"): Operation(
        summary="Set its metadata.", body=METADATA, answer="ChatCompletion"
    ),
    ("DELETE", f"{_CHATS}/{{completion_id}}"): Operation(summary="Forget it.", answer="Deleted"),
    ("GET", f"{_CHATS}/{{completion_id}}/messages"): Operation(
        summary="The messages it answered.", answer="List", query=_PAGE
    ),
    ("POST", "/v1/completions"): Operation(
        summary="Complete prompts given as text or token ids.",
        body=COMPLETION_BODY,
        answer="TextCompletion",
        media=_STREAMED,
    ),
    ("POST", _RESPONSES): Operation(
        summary="Make a response; one that follows another forks its branch.",
        body=RESPONSE_BODY,
        answer="Response",
        media=_STREAMED,
    ),
    ("POST", f"{_RESPONSES}/input_tokens"): Operation(
        summary="Count a response's input tokens.", body=COUNTED_BODY, answer="InputTokens"
    ),
    ("GET", f"{_RESPONSES}/{{response_id}}"): Operation(
        summary="A response, or its events again.",
        answer="Response",
        query={**_INCLUDE, "stream": BOOLEAN, "starting_after": {"type": "integer", "minimum": 0}},
        media=_STREAMED,
    ),
    ("DELETE", f"{_RESPONSES}/{{response_id}}"): Operation(
        summary="Forget it and free its branch.", answer="Deleted"
    ),
    ("POST", f"{_RESPONSES}/{{response_id}}/cancel"): Operation(
        summary="Stop a background response.", answer="Response"
    ),
    ("GET", f"{_RESPONSES}/{{response_id}}/input_items"): Operation(
        summary="What it was made from.", answer="List", query={**_PAGE, **_INCLUDE}
    ),
    ("POST", _CONVERSATIONS): Operation(
        summary="Begin a conversation.", body=CONVERSATION, answer="Conversation"
    ),
    ("GET", f"{_CONVERSATIONS}/{{conversation_id}}"): Operation(
        summary="A conversation.", answer="Conversation"
    ),
    ("POST", f"{_CONVERSATIONS}/{{conversation_id}}"): Operation(
        summary="Set its metadata.", body=METADATA, answer="Conversation"
    ),
    ("DELETE", f"{_CONVERSATIONS}/{{conversation_id}}"): Operation(summary="Forget it.", answer="Deleted"),
    ("POST", f"{_CONVERSATIONS}/{{conversation_id}}/items"): Operation(
        summary="Add items.", body=ITEMS, required=("items",), answer="List", query=_INCLUDE
    ),
    ("GET", f"{_CONVERSATIONS}/{{conversation_id}}/items"): Operation(
        summary="Its items.", answer="List", query={**_PAGE, **_INCLUDE}
    ),
    ("GET", f"{_CONVERSATIONS}/{{conversation_id}}/items/{{item_id}}"): Operation(
        summary="One item.", answer="Item", query=_INCLUDE
    ),
    ("DELETE", f"{_CONVERSATIONS}/{{conversation_id}}/items/{{item_id}}"): Operation(
        summary="Take one item out.", answer="Conversation"
    ),
    ("GET", "/v1/branches/{branch_id}"): Operation(summary="A branch of the tree.", answer="Branch"),
    ("POST", "/v1/branches/{branch_id}"): Operation(
        summary="Pin it, unpin it, or note something about it.", body=BRANCH_UPDATE, answer="Branch"
    ),
    ("DELETE", "/v1/branches/{branch_id}"): Operation(summary="Prune it and all below it.", answer="Deleted"),
    ("GET", "/v1/branches/{branch_id}/children"): Operation(
        summary="The branches forked from it.", answer="List", query=_PAGE
    ),
    ("GET", "/v1/trees"): Operation(summary="The trees there are.", answer="List", query=_PAGE),
    ("GET", "/v1/trees/events"): Operation(
        summary="Events of the list of trees.", answer="", media=(EVENTS,)
    ),
    ("GET", "/v1/trees/{tree_id}"): Operation(
        summary="All branches of a tree, or a drawing of it.",
        answer="TreeOfBranches",
        query={"format": word("json", "mermaid", "dot", "svg")},
        media=(JSON, "text/vnd.mermaid", "text/vnd.graphviz", "image/svg+xml"),
    ),
    ("GET", "/v1/trees/{tree_id}/events"): Operation(
        summary="Events of a tree as it grows.", answer="", media=(EVENTS,)
    ),
    ("POST", "/v1/search"): Operation(
        summary="Search the tree of what could be said.",
        body=SEARCH,
        required=("method",),
        answer="Search",
        media=_STREAMED,
    ),
    ("GET", "/v1/search/{search_id}"): Operation(summary="A search.", answer="Search"),
    ("POST", "/v1/search/{search_id}/cancel"): Operation(
        summary="End it and free its branches.", answer="Search"
    ),
    ("DELETE", "/v1/search/{search_id}"): Operation(summary="Forget it.", answer="Deleted"),
    ("GET", "/v1/models"): Operation(summary="The names the model answers to.", answer="ModelList"),
    ("GET", "/v1/models/{model}"): Operation(summary="One of them.", answer="Model"),
    ("GET", "/health"): Operation(summary="Whether requests are taken, and the cache.", answer="Health"),
    ("GET", "/ping"): Operation(summary="The same, by another name.", answer="Health"),
    ("POST", "/ping"): Operation(summary="The same, by another name.", answer="Health"),
    ("GET", "/load"): Operation(summary="How many prompts wait or are answered.", answer="Load"),
    ("GET", "/version"): Operation(summary="This server's version.", answer="Version"),
    ("GET", "/metrics"): Operation(summary="Prometheus text.", answer="", media=("text/plain",)),
    ("POST", "/tokenize"): Operation(summary="Token ids of a text.", body=TOKENIZE, answer="Tokens"),
    ("POST", "/detokenize"): Operation(
        summary="Text of token ids.", body=DETOKENIZE, required=("tokens",), answer="Prompt"
    ),
    ("GET", "/tokenizer_info"): Operation(summary="The tokenizer's settings.", answer="TokenizerInfo"),
    ("GET", "/"): Operation(summary="A page that shows the trees.", answer="", media=("text/html",)),
    ("GET", "/openapi.json"): Operation(summary="This document.", answer="Document"),
}


def document(routes: Iterable[BaseRoute], version: str) -> Schema:
    """The OpenAPI document of a server with these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path in endpoints(routes):
        operation = OPERATIONS.get((method, path), Operation(summary="", answer="", media=()))
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation)
    info = {"title": "Dendrite", "version": version, "license": {"name": "Apache-2.0"}}
    key = {"type": "http", "scheme": "bearer", "description": "Only where the server was given a key."}
    return {
        "openapi": "3.1.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": ANSWERS, "securitySchemes": {"key": key}},
        "security": [{}, {"key": []}],
    }


def endpoints(routes: Iterable[BaseRoute]) -> list[tuple[str, str]]:
    """(method, path) of every route, as OpenAPI writes paths."""
    return [
        (method, re.sub(r":\w+}", "}", route.path))
        for route in routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
        if method != "HEAD"
    ]


def _operation(method: str, path: str, operation: Operation) -> Schema:
    words = [part for part in re.split(r"\W+", path) if part not in ("", "v1")]
    body: Schema = {
        "operationId": "_".join([method.lower(), *words]),
        "summary": operation.summary,
        "parameters": [*_path_parameters(path), *_query_parameters(operation.query or {})],
        "responses": {"200": _answer(operation), "default": _error()},
    }
    if operation.body is not None:
        body["requestBody"] = {"required": True, "content": {JSON: {"schema": _body(operation)}}}
    return body


def _body(operation: Operation) -> Schema:
    return {
        "type": "object",
        "properties": operation.body,
        "required": list(operation.required),
        "additionalProperties": False,
    }


def _path_parameters(path: str) -> list[Schema]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": STRING} for name in names]


def _query_parameters(query: Table) -> list[Schema]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in query.items()]


def _answer(operation: Operation) -> Schema:
    def schema(media: str) -> Schema:
        return {"schema": ref(operation.answer) if media == JSON else STRING}

    content = {media: schema(media) for media in operation.media}
    return {"description": operation.summary, "content": content}


def _error() -> Schema:
    return {"description": "What went wrong.", "content": {JSON: {"schema": ref("Error")}}}
