"""The shapes that clients break on, one test for each, read as bytes from a real socket."""

from __future__ import annotations

import http.client
import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response as ResponseObject

from dendrite_server.config import ServerConfig
from tests.server.conftest import MODEL, Serve, Server

HI = [{"role": "user", "content": "hi"}]


def send(server: Server, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of one exchange over a socket of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        method = "GET" if body is None else "POST"
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, None if body is None else payload, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def post(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    status, _, raw = send(server, path, fields)
    assert status == 200, raw
    body: dict[str, Any] = json.loads(raw)
    return body


def events(server: Server, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The `data:` lines of a stream, which ends in [DONE] where it is a chat's."""
    _, headers, raw = send(server, path, {**fields, "stream": True})
    assert headers["content-type"].startswith("text/event-stream")
    assert raw.endswith(b"\n\n")
    lines = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
    if "responses" not in path:
        assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


MISTAKES: list[tuple[str, Any, int, str | None, str | None]] = [
    ("/v1/chat/completions", {}, 400, "messages", "missing_required_parameter"),
    ("/v1/chat/completions", b"{", 400, None, "invalid_json"),
    ("/v1/chat/completions", {"messages": HI, "model": "x"}, 404, "model", "model_not_found"),
    ("/v1/chat/completions", {"messages": HI, "audio": {}}, 400, "audio", "unsupported_parameter"),
    ("/v1/completions", {"prompt": "a " * 9000}, 400, "prompt", "context_length_exceeded"),
    ("/v1/nowhere", {}, 404, None, "unknown_url"),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "code"), MISTAKES)
def test_an_error_has_its_four_keys(
    server: Server, path: str, body: Any, status: int, param: str | None, code: str | None
) -> None:
    seen, headers, raw = send(server, path, body)
    answer = json.loads(raw)
    assert set(answer) == {"error"}
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (seen, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["message"], str)
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]


def test_a_missing_key_has_the_same_envelope(serve: Serve) -> None:
    guarded = serve(ServerConfig(api_keys=("secret",)))
    status, headers, raw = send(guarded, "/v1/models")
    error = json.loads(raw)["error"]
    assert (status, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    assert set(error) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]


def test_the_request_id_reaches_the_sdk(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert answer._request_id
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[])
    assert caught.value.request_id != answer._request_id


def test_the_order_of_chat_chunks(server: Server) -> None:
    chunks = events(
        server,
        "/v1/chat/completions",
        messages=HI,
        n=2,
        max_tokens=4,
        seed=1,
        stream_options={"include_usage": True},
    )
    assert len({(one["id"], one["created"], one["model"], one["object"]) for one in chunks}) == 1
    for index in (0, 1):
        own = [one["choices"][0] for one in chunks if one["choices"] and one["choices"][0]["index"] == index]
        first, *middle, last = own
        assert first["delta"]["role"] == "assistant"
        assert not [one for one in (*middle, last) if "role" in one["delta"]]
        assert last["delta"] == {}
        assert [one["finish_reason"] for one in own[:-1]] == [None] * (len(own) - 1)
        assert last["finish_reason"] in ("stop", "length")
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] <= 8
    assert all(one["usage"] is None for one in chunks[:-1])


def test_no_usage_key_unless_asked(server: Server) -> None:
    chunks = events(server, "/v1/chat/completions", messages=HI, max_tokens=2)
    assert not [one for one in chunks if "usage" in one]
    assert chunks[-1]["choices"][0]["finish_reason"]


def test_usage_counts_a_prompt_once_for_all_choices(server: Server) -> None:
    one = post(server, "/v1/chat/completions", messages=HI, max_tokens=3)["usage"]
    many = post(server, "/v1/chat/completions", messages=HI, max_tokens=3, n=4)["usage"]
    assert many["prompt_tokens"] == one["prompt_tokens"]
    assert many["prompt_tokens_details"]["cached_tokens"] <= many["prompt_tokens"]
    for usage in (one, many):
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_legacy_logprobs_of_an_echo(server: Server) -> None:
    prompt = "the tree"
    asked = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 3, "ignore_eos": True}
    body = post(server, "/v1/completions", **asked)
    (choice,) = body["choices"]
    logprobs, usage = choice["logprobs"], body["usage"]
    length = usage["prompt_tokens"] + usage["completion_tokens"]
    assert {name: len(values) for name, values in logprobs.items()} == dict.fromkeys(logprobs, length)
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(isinstance(value, float) for value in logprobs["token_logprobs"][1:])
    assert logprobs["text_offset"][0] == 0
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        # The random model may write bytes that are no text; what follows them has no exact place.
        if "\ufffd" in choice["text"][: offset + 1]:
            break
        assert choice["text"].startswith(token, offset)


def test_token_ids_are_a_prompt(server: Server) -> None:
    ids = server.engine.tokenizer.encode_prompt("the tree")
    bodies = [
        post(server, "/v1/completions", prompt=prompt, temperature=0)
        for prompt in ("the tree", ids, [ids, ids])
    ]
    texts = [[choice["text"] for choice in body["choices"]] for body in bodies]
    assert texts == [texts[0], texts[0], texts[0] * 2]


SETTINGS = """
instructions tools tool_choice temperature top_p truncation text reasoning metadata parallel_tool_calls
previous_response_id store background max_output_tokens max_tool_calls service_tier top_logprobs
presence_penalty frequency_penalty safety_identifier prompt_cache_key completed_at incomplete_details error
usage
"""


def test_a_response_repeats_its_settings(server: Server) -> None:
    asked = {"max_output_tokens": 3, "metadata": {"a": "b"}, "temperature": 0.5}
    body = post(server, "/v1/responses", input="hi", **asked)
    assert not set(SETTINGS.split()) - body.keys()
    assert {name: body[name] for name in asked} == asked
    usage = body["usage"]
    assert usage["input_tokens_details"].keys() == {"cached_tokens", "cache_write_tokens"}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    ResponseObject.model_validate(body, strict=True)


def test_response_events_are_numbered_through(server: Server) -> None:
    told = events(server, "/v1/responses", input="hi", max_output_tokens=3)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    kinds = [event["type"] for event in told]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_tokenize_has_vllms_shape(server: Server) -> None:
    body = post(server, "/tokenize", prompt="the tree")
    assert set(body) == {"count", "max_model_len", "tokens", "token_strs"}
    assert body["count"] == len(body["tokens"])
    assert post(server, "/detokenize", tokens=body["tokens"])["prompt"].endswith("the tree")


def test_tokenizer_info_names_its_tokens(server: Server) -> None:
    status, _, raw = send(server, "/tokenizer_info")
    info = json.loads(raw)
    assert status == 200
    assert {"eos_token", "bos_token", "pad_token", "chat_template"} <= info.keys()
    assert "messages" in info["chat_template"]


def test_the_name_that_was_asked_is_the_name_that_answers(serve: Serve) -> None:
    server = serve(ServerConfig(model_names=("a", "b", "org/c")))
    _, _, raw = send(server, "/v1/models")
    assert [model["id"] for model in json.loads(raw)["data"]] == ["a", "b", "org/c"]
    for name in ("a", "b", "org/c"):
        assert post(server, "/v1/chat/completions", messages=HI, model=name, max_tokens=1)["model"] == name
        chunks = events(server, "/v1/completions", prompt="hi", model=name, max_tokens=1)
        assert {one["model"] for one in chunks} == {name}
        assert post(server, "/v1/responses", input="hi", model=name, max_output_tokens=1)["model"] == name
    assert post(server, "/v1/completions", prompt="hi", max_tokens=1)["model"] == "a"
