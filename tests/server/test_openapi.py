"""`/openapi.json` says what is so: every route, every field that is read, the shapes of the answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from dendrite_server.app import create_app
from dendrite_server.description.openapi import (
    CHAT_BODY,
    COMPLETION_BODY,
    COUNTED_BODY,
    OPERATIONS,
    RESPONSE_BODY,
    endpoints,
)
from dendrite_server.protocol.fields import Fields
from dendrite_server.protocol.request import (
    CHAT_UNSUPPORTED,
    COMPLETION_UNSUPPORTED,
    Limits,
    parse_chat,
    parse_completion,
)
from dendrite_server.responses.request import UNSUPPORTED, parse_response, parse_token_count
from tests.server.conftest import Server

LIMITS = Limits(vocab_size=256, max_branches=8)
HI = [{"role": "user", "content": "hi"}]
PARSERS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any], Any]] = {
    "chat": (parse_chat, {"messages": HI}, CHAT_BODY, CHAT_UNSUPPORTED),
    "completions": (parse_completion, {"prompt": "hi"}, COMPLETION_BODY, COMPLETION_UNSUPPORTED),
    "responses": (parse_response, {"input": "hi"}, RESPONSE_BODY, UNSUPPORTED),
    "input_tokens": (parse_token_count, {"input": "hi"}, COUNTED_BODY, UNSUPPORTED),
}


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = http.get("/openapi.json").json()
    return body


def test_it_is_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    ids = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids))
    for name in re.findall(r"'#/components/schemas/(\w+)'", str(document)):
        assert name in document["components"]["schemas"]
    for schema in _schemas(document):
        jsonschema.Draft202012Validator.check_schema(schema)


def _schemas(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "schema" in node:
            yield node["schema"]
        for value in node.values():
            yield from _schemas(value)
    elif isinstance(node, list):
        for value in node:
            yield from _schemas(value)


def test_every_route_is_described(server: Server) -> None:
    assert set(endpoints(create_app(server.engine).routes)) <= OPERATIONS.keys()


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_the_fields_described_are_the_fields_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, body, described, refused = PARSERS[name]
    read: set[str] = set()
    take, has = Fields.take, Fields.has

    def watched(fields: Fields, field: str) -> Any:
        if fields.path(field) == field:
            read.add(field)
        return take(fields, field)

    def asked_about(fields: Fields, field: str) -> bool:
        if fields.path(field) == field:
            read.add(field)
        return has(fields, field)

    monkeypatch.setattr(Fields, "take", watched)
    monkeypatch.setattr(Fields, "has", asked_about)
    parse(body, LIMITS)
    if name in ("responses", "input_tokens"):
        # The chat layer is asked in its own words, which are no fields of this API.
        read -= {"messages", "max_completion_tokens", "reasoning_effort", "response_format", "verbosity"}
        read &= described.keys() | read - CHAT_BODY.keys()
    if name == "input_tokens":
        read &= described.keys()
    assert read == described.keys()
    assert not described.keys() & set(refused)


SHAPES: list[tuple[str, str, dict[str, Any] | None, str]] = [
    ("POST", "/v1/chat/completions", {"messages": HI, "n": 2}, "ChatCompletion"),
    ("POST", "/v1/completions", {"prompt": ["hi", "ho"], "logprobs": 1}, "TextCompletion"),
    ("POST", "/v1/responses", {"input": "hi", "max_output_tokens": 3}, "Response"),
    ("POST", "/v1/responses/input_tokens", {"input": "hi"}, "InputTokens"),
    ("POST", "/v1/conversations", {}, "Conversation"),
    ("GET", "/v1/chat/completions", None, "ChatCompletionList"),
    ("GET", "/v1/models", None, "ModelList"),
    ("GET", "/v1/models/tiny", None, "Model"),
    ("GET", "/health", None, "Health"),
    ("GET", "/ping", None, "Health"),
    ("POST", "/ping", None, "Health"),
    ("GET", "/load", None, "Load"),
    ("GET", "/version", None, "Version"),
    ("GET", "/tokenizer_info", None, "TokenizerInfo"),
    ("GET", "/openapi.json", None, "Document"),
    ("POST", "/tokenize", {"prompt": "hi"}, "Tokens"),
    ("POST", "/detokenize", {"tokens": [5, 6]}, "Prompt"),
    ("GET", "/v1/branches/nothing", None, "Error"),
    ("POST", "/v1/completions", {}, "Error"),
]


@pytest.mark.parametrize(("method", "path", "body", "shape"), SHAPES, ids=lambda value: str(value)[:40])
def test_answers_have_their_shapes(
    http: httpx.Client, document: dict[str, Any], method: str, path: str, body: Any, shape: str
) -> None:
    answer = http.request(method, path, json=body)
    assert (answer.status_code == 200) == (shape != "Error"), answer.text
    check(document, answer.json(), shape)


def check(document: dict[str, Any], answer: Any, shape: str) -> None:
    schema = {**document, "$ref": f"#/components/schemas/{shape}"}
    jsonschema.Draft202012Validator(schema).validate(answer)


def test_branches_and_their_children_have_their_shapes(http: httpx.Client, document: dict[str, Any]) -> None:
    body = http.post("/v1/completions", json={"prompt": "a", "n": 3, "max_tokens": 2}).json()
    prompt = body["tree"]["prompt_branch_id"]
    children = http.get(f"/v1/branches/{prompt}/children", params={"limit": 2}).json()
    check(document, children, "List")
    assert [child["id"] for child in children["data"]] == [one["branch_id"] for one in body["choices"][:2]]
    assert children["has_more"] is True
    rest = http.get(f"/v1/branches/{prompt}/children", params={"after": children["last_id"]}).json()
    assert [child["id"] for child in rest["data"]] == [body["choices"][2]["branch_id"]]
    for child in children["data"]:
        check(document, child, "Branch")
        assert child["parent_id"] == prompt
    check(document, http.get(f"/v1/trees/{body['tree']['tree_id']}").json(), "TreeOfBranches")


def test_the_tokenizers_settings_are_those_of_its_files(http: httpx.Client, server: Server) -> None:
    info = http.get("/tokenizer_info").json()
    tokenizer = server.engine.tokenizer
    assert [tokenizer.token_id(info["eos_token"])] == [tokenizer.eos_ids[0]]
    assert info["eos_token_ids"] == list(tokenizer.eos_ids)
    assert info["vocab_size"] == tokenizer.vocab_size
