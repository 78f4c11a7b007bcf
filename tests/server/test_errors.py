"""Errors as clients meet them: one shape with all four keys, the right status, nothing from inside."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from dendrite_core import SamplingParams
from dendrite_core.engine.messages import Request
from dendrite_core.errors import DendriteError, EngineClosed, QueueFull, RequestError, SequenceFailed
from dendrite_server.config import ServerConfig
from dendrite_server.errors import TABLE, error_body, error_response, row_of
from dendrite_server.protocol.request import HARMLESS
from tests.server.conftest import MODEL, Serve, Server

Error = dict[str, Any]

USER: Any = [{"role": "user", "content": "hi"}]


def check(answer: httpx.Response, status: int, kind: str, code: str | None, param: str | None) -> Error:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert set(answer.json()) == {"error"}
    error: Error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    assert error["message"]
    return error


BAD = "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ("{not json", 400, "invalid_json", None),
        ("[]", 400, "invalid_json", None),
        ('{"messages": [], "seed": 1, "seed": 2}', 400, "invalid_json", None),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "invalid_type", "messages[0].content"),
        ({"messages": USER, "temprature": 1}, 400, "unknown_parameter", "temprature"),
        ({"messages": USER, "audio": {}}, 400, "unsupported_parameter", "audio"),
        ({"messages": USER, "model": "gpt-4"}, 404, "model_not_found", "model"),
        ({"messages": USER, "parent_id": "branch_0"}, 404, "branch_not_found", "parent_id"),
        ({"messages": USER, "parent_id": "chatcmpl-0"}, 404, "branch_not_found", "parent_id"),
        ({"messages": USER, "max_tokens": 5000}, 400, "context_length_exceeded", "max_tokens"),
        (
            {"messages": USER, "max_completion_tokens": 5000},
            400,
            "context_length_exceeded",
            "max_completion_tokens",
        ),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "context_length_exceeded", "messages"),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_chat_request(
    http: httpx.Client, body: Any, status: int, code: str, param: str | None, stream: bool
) -> None:
    content = body if isinstance(body, str) else json.dumps({**body, "stream": stream})
    check(http.post("/v1/chat/completions", content=content), status, BAD, code, param)


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKED = [
    ("gzip", gzip.compress),
    ("X-GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("identity", bytes),
]


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_a_body_may_come_packed(http: httpx.Client, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    body = json.dumps({"prompt": "the tree " * 50, "max_tokens": 4, "seed": 1}).encode()
    plain = http.post("/v1/completions", content=body)
    packed = http.post("/v1/completions", content=pack(body), headers={"content-encoding": encoding})
    assert packed.status_code == 200
    assert packed.json()["choices"][0]["text"] == plain.json()["choices"][0]["text"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("spoil", ["cut", "longer", "plain"])
def test_a_body_that_cannot_be_unpacked(http: httpx.Client, encoding: str, spoil: str) -> None:
    whole = b'{"prompt": [1]}'
    packed = gzip.compress(whole) if encoding == "gzip" else zlib.compress(whole)
    sent = {"cut": packed[:-1], "longer": packed + b"x", "plain": whole}[spoil]
    answer = http.post("/v1/completions", content=sent, headers={"content-encoding": encoding})
    message = check(answer, 400, BAD, "invalid_content_encoding", None)["message"]
    assert "Content-Encoding" in message


@pytest.mark.parametrize(
    "body", ['{"seed": 1, "seed": 1}', '{"messages": [{"seed": 1, "role": "user", "seed": 2}]}']
)
def test_a_field_that_is_given_twice_is_named(http: httpx.Client, body: str) -> None:
    error = check(http.post("/v1/chat/completions", content=body), 400, BAD, "invalid_json", None)
    assert error["message"] == "'seed' is given twice in one object of the request body."


def test_the_one_of_many_fields_that_is_given_twice_is_found_in_time(http: httpx.Client) -> None:
    fields = ",".join(f'"{at}": 0' for at in [*range(200_000), 199_999])
    begin = time.monotonic()
    error = check(http.post("/v1/completions", content=f"{{{fields}}}"), 400, BAD, "invalid_json", None)
    assert "'199999'" in error["message"]
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_a_body_packed_in_a_way_nobody_knows(http: httpx.Client, encoding: str) -> None:
    answer = http.post("/v1/completions", content=b"x" * 100_000, headers={"content-encoding": encoding})
    assert f"'{encoding}'" in check(answer, 415, BAD, "unsupported_content_encoding", None)["message"]
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_a_long_prompt_is_called_prompt_in_completions(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": [1] * 3000})
    check(answer, 400, BAD, "context_length_exceeded", "prompt")


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    check(http.get("/v1/nothing"), 404, BAD, "unknown_url", None)
    check(http.get("/v1/chat/completions/"), 404, BAD, "unknown_url", None)
    check(http.get("/v1/completions"), 405, BAD, "method_not_supported", None)
    check(http.put("/v1/branches/x", json={}), 405, BAD, "method_not_supported", None)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("/chat/completions", "Perhaps /v1/chat/completions was meant."),
        ("/v1/v1/chat/completions", "Perhaps /v1/chat/completions was meant."),
        ("/v1/tokenize", "Perhaps /tokenize was meant."),
        ("/v1/completions/", "Perhaps /v1/completions was meant."),
        ("/v1/embeddings", "GET /openapi.json lists what there is."),
        ("/health/", "GET /openapi.json lists what there is."),
    ],
)
def test_an_unknown_path_says_where_to_look(http: httpx.Client, asked: str, hint: str) -> None:
    said = http.post(asked, json={}).json()["error"]["message"]
    assert said == f"Unknown request URL: POST {asked}. {hint}"


def test_the_sdk_raises_its_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-4", messages=USER)
    assert not_found.value.code == "model_not_found"
    assert not_found.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=USER, temperature=3)
    assert (bad.value.param, bad.value.type) == ("temperature", BAD)


def test_request_ids_are_ours_or_the_callers(http: httpx.Client) -> None:
    assert http.get("/health").headers["x-request-id"].startswith("req_")
    named = {"x-request-id": "trace-7.a:b"}
    assert http.get("/health", headers=named).headers["x-request-id"] == "trace-7.a:b"
    strange = {"x-request-id": "a b\tc"}
    assert http.get("/health", headers=strange).headers["x-request-id"].startswith("req_")


class TestGuarded:
    """A server with a key, a small body limit and room for two requests."""

    @pytest.fixture(scope="class")
    def guarded(self, serve: Serve) -> Server:
        config = ServerConfig(
            api_keys=("other", "s3cret", "third"), max_body_bytes=4096, model_names=("a", "b/c")
        )
        return serve(config, max_waiting=1, max_rows=1)

    @pytest.fixture(scope="class")
    def http(self, guarded: Server) -> Iterator[httpx.Client]:
        key = {"authorization": "Bearer s3cret"}
        with httpx.Client(base_url=guarded.url, headers=key, timeout=30) as client:
            yield client

    @pytest.mark.parametrize("header", [None, "s3cret", "Bearer", "Bearer wrong", "Basic s3cret", "Bearer ä"])
    def test_a_wrong_key(self, guarded: Server, header: str | None) -> None:
        headers = {} if header is None else {"authorization": header.encode("latin-1")}
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            answer = httpx.get(guarded.url + path, headers=headers)
            error = check(answer, 401, "authentication_error", "invalid_api_key", None)
            assert "s3cret" not in json.dumps(error)
        for path in ("/health", "/ping"):
            assert httpx.get(guarded.url + path, headers=headers).status_code == 200

    @pytest.mark.parametrize("key", ["other", "s3cret", "third"])
    def test_any_of_the_keys(self, guarded: Server, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200

    def test_the_right_key_through_the_sdk(self, guarded: Server) -> None:
        with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="s3cret", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["a", "b/c"]
            answer = client.chat.completions.create(model="b/c", messages=USER, max_tokens=1)
            assert answer.model == "b/c"
            assert client.models.retrieve("b/c").id == "b/c"
        with (
            openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="no", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()

    @pytest.mark.parametrize("size", [5000, 12_000, 400_000])
    def test_a_body_too_large(self, http: httpx.Client, size: int) -> None:
        answer = http.post("/v1/completions", json={"prompt": "x" * size})
        check(answer, 413, BAD, "request_too_large", None)
        chunked = http.post("/v1/completions", content=iter([b"x" * (size // 2)] * 2))
        check(chunked, 413, BAD, "request_too_large", None)

    @pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
    def test_a_body_that_is_too_large_once_it_is_unpacked(
        self, http: httpx.Client, pack: Callable[[bytes], bytes]
    ) -> None:
        headers = {"content-encoding": "gzip" if pack is gzip.compress else "deflate"}
        whole = json.dumps({"prompt": [1], "max_tokens": 1})
        fits, larger = (pack(whole.ljust(size).encode()) for size in (4096, 4097))
        assert http.post("/v1/completions", content=fits, headers=headers).status_code == 200
        answer = http.post("/v1/completions", content=larger, headers=headers)
        check(answer, 413, BAD, "request_too_large", None)

    def test_a_full_queue(self, guarded: Server, http: httpx.Client) -> None:
        params = SamplingParams(max_tokens=1500, ignore_eos=True)
        running = [
            guarded.engine.submit(Request(request_id="x", prompt=(1,), params=params)) for _ in range(2)
        ]
        answer = http.post("/v1/completions", json={"prompt": [1]})
        check(answer, 429, "rate_limit_error", "rate_limit_exceeded", None)
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 1
        for stream in running:
            stream.abort().result()
        assert http.post("/v1/completions", json={"prompt": [1]}).status_code == 200

    def test_pages_on_this_machine_may_ask(self, guarded: Server) -> None:
        def preflight(origin: str) -> httpx.Response:
            headers = {"origin": origin, "access-control-request-method": "POST"}
            headers["access-control-request-headers"] = "authorization,content-type"
            return httpx.options(f"{guarded.url}/v1/chat/completions", headers=headers)

        local = "http://localhost:3000"
        assert preflight(local).headers["access-control-allow-origin"] == local
        evil = preflight("http://evil.example")
        assert "--allowed-origins" in check(evil, 400, BAD, "cors_refused", None)["message"]
        assert "access-control-allow-origin" not in evil.headers
        assert "POST" in evil.headers["access-control-allow-methods"]
        refused = httpx.get(f"{guarded.url}/v1/models", headers={"origin": local})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == local


def test_pages_of_a_named_origin_may_ask(serve: Serve) -> None:
    server = serve(ServerConfig(allowed_origins=("https://chat.example",)))
    for origin, may in (
        ("https://chat.example", True),
        ("http://localhost:1", True),
        ("https://evil.example", False),
    ):
        answer = httpx.get(f"{server.url}/v1/models", headers={"origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) is may


def test_a_fault_inside_is_told_without_insides(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret path /etc")

    monkeypatch.setattr(server.engine, "encode_chat", broken)
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": USER})
    error = check(answer, 500, "server_error", "internal_error", None)
    assert "secret" not in error["message"]


def test_a_fault_in_the_middle_of_a_stream_is_an_event(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    asked = {"prompt": [1], "max_tokens": 500, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=asked, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        monkeypatch.setattr(server.engine._loop.runner, "run", lambda batch: 1 / 0)
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert events[-1]["error"]["code"] == "generation_failed"
    assert "zero" not in events[-1]["error"]["message"]
    monkeypatch.undo()
    assert httpx.post(f"{server.url}/v1/completions", json={"prompt": [1]}).status_code == 200


def every_error(base: type[DendriteError] = DendriteError) -> Iterator[type[DendriteError]]:
    for cls in base.__subclasses__():
        yield cls
        yield from every_error(cls)


def name_of(cls: type[DendriteError]) -> str:
    return cls.__name__


@pytest.mark.parametrize("cls", sorted(set(every_error()), key=name_of), ids=name_of)
def test_every_error_has_a_row_and_none_is_a_conflict(cls: type[DendriteError]) -> None:
    row = row_of(cls("what happened"))
    assert row.status != 409
    assert issubclass(cls, row.error)
    assert set(error_body(cls("what happened"))["error"]) == {"message", "type", "param", "code"}


def test_rows_of_the_table_are_reachable() -> None:
    for row in TABLE:
        assert row_of(row.error("x")) is row


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (RequestError("bad", param="x"), 400, True),
        (QueueFull("full", retry_after=2.5), 429, True),
        (EngineClosed("closing"), 503, True),
        (SequenceFailed("cuda at 0x7f"), 500, False),
        (RuntimeError("cuda at 0x7f"), 500, False),
    ],
    ids=str,
)
def test_only_what_a_caller_can_use_is_told(error: Exception, status: int, told: bool) -> None:
    answer = error_response(error)
    assert answer.status_code == status
    assert (str(error) in bytes(answer.body).decode()) is told


def test_the_documentation_has_every_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    rows = {row.code for row in TABLE}
    for code in rows | {cls.code for cls in every_error() if issubclass(cls, RequestError)}:
        assert code is None or f"`{code}`" in text, code
    for name in HARMLESS:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize(
    "sent",
    [
        b"NOT HTTP\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 100_000,
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nno length\r\n",
    ],
    ids=["no request", "no host", "no header", "endless", "no chunk"],
)
def test_what_is_no_http_is_answered_like_any_mistake(server: Server, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent)
        answer = HTTPResponse(connection)
        answer.begin()
        found = httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
        check(found, 400, BAD, "invalid_http", None)
        assert connection.recv(1) == b""


def test_bytes_after_a_request_do_not_cut_into_its_answer(server: Server) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 200, "ignore_eos": True, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + body + b"NOT HTTP\r\n\r\n")
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        assert answer.read().endswith(b"data: [DONE]\n\n")
