"""OpenAI's own Python client, unchanged: sync and async, stream helpers, raw answers, errors, retries."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.responses import Response

from compat_tests.conftest import MODEL, Abilities

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_is_valid_by_the_clients_types(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HI, temperature=0)
    answer = ChatCompletion.model_validate_json(raw.content, strict=True)
    assert answer == raw.parse()
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert answer.choices[0].message.content
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_valid_chunk_by_chunk(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HI, temperature=0)
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HI, temperature=0, stream=True, stream_options={"include_usage": True}
    ) as raw:
        lines = [line.removeprefix("data: ") for line in raw.iter_lines() if line.startswith("data: {")]
    chunks = [ChatCompletionChunk.model_validate_json(line, strict=True) for line in lines]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage
    assert whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_stream_helper_adds_up(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HI, temperature=0, logprobs=True)
    kinds: list[str] = []
    with client.chat.completions.stream(
        model=MODEL, messages=HI, temperature=0, logprobs=True, stream_options={"include_usage": True}
    ) as stream:
        kinds += [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= set(kinds)
    assert final.usage
    assert whole.usage
    assert final.usage.total_tokens == whole.usage.total_tokens


async def test_the_async_client_streams_and_waits(aclient: openai.AsyncOpenAI) -> None:
    whole = await aclient.chat.completions.create(model=MODEL, messages=HI, temperature=0)
    async with aclient.chat.completions.stream(model=MODEL, messages=HI, temperature=0) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_legacy_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Once", n=2, best_of=3, logprobs=1, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1]
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(model=MODEL, prompt="Once", temperature=0, stream=True)
    )
    assert text == client.completions.create(model=MODEL, prompt="Once", temperature=0).choices[0].text


def test_responses_follow_one_another(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="Hello", temperature=0)
    assert Response.model_validate(first.model_dump(by_alias=True), strict=True).output_text
    with client.responses.stream(
        model=MODEL, input="And you?", temperature=0, previous_response_id=first.id
    ) as stream:
        kinds = [event.type for event in stream]
        second = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert second.usage
    assert second.usage.input_tokens_details.cached_tokens > 0
    assert client.responses.retrieve(second.id).output_text == second.output_text
    assert len(client.responses.input_items.list(second.id).data) == 3
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_stored_completions(client: openai.OpenAI) -> None:
    topic = {"topic": "greeting"}
    kept = client.chat.completions.create(model=MODEL, messages=HI, store=True, metadata=topic)
    assert client.chat.completions.retrieve(kept.id).choices == kept.choices
    assert client.chat.completions.messages.list(kept.id).data[0].content == "Hello"
    assert kept.id in [one.id for one in client.chat.completions.list(metadata=topic)]
    assert client.chat.completions.delete(kept.id).deleted


def test_parsing_into_a_model(client: openai.OpenAI, abilities: Abilities) -> None:
    if not abilities.formats:
        pytest.skip("this server does not constrain its output")
    from pydantic import BaseModel

    class Verdict(BaseModel):
        verdict: bool

    parsed = client.chat.completions.parse(model=MODEL, messages=HI, response_format=Verdict, seed=1)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    with client.chat.completions.stream(model=MODEL, messages=HI, response_format=Verdict, seed=1) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == parsed.choices[0].message.parsed


def test_a_tool_is_called(client: openai.OpenAI, abilities: Abilities) -> None:
    if not abilities.tools:
        pytest.skip("this server does not call tools")
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
        tool_choice="required",
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls


MISTAKES: list[tuple[dict[str, Any], type[openai.APIStatusError], str | None, str | None]] = [
    ({"temperature": 9}, openai.BadRequestError, "temperature", "invalid_value"),
    ({"model": "nothing"}, openai.NotFoundError, "model", "model_not_found"),
    ({"extra_body": {"parent_id": "branch_0"}}, openai.NotFoundError, "parent_id", "branch_not_found"),
    ({"extra_body": {"nonsense": 1}}, openai.BadRequestError, "nonsense", "unknown_parameter"),
    ({"audio": {"format": "mp3", "voice": "x"}}, openai.BadRequestError, "audio", "unsupported_parameter"),
    ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens", "context_length_exceeded"),
]


@pytest.mark.parametrize(("fields", "error", "param", "code"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_raise_the_clients_own_errors(
    client: openai.OpenAI,
    fields: dict[str, Any],
    error: type[openai.APIStatusError],
    param: str | None,
    code: str | None,
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": HI, **fields})
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_a_full_queue_is_waited_for(base_url: str) -> None:
    """The answer to the first try is this server's own 429, put in front of it by a small proxy."""
    tries: list[float] = []
    with proxy(base_url, refusals=1, tries=tries) as url, openai.OpenAI(base_url=url, api_key="x") as client:
        answer = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=1)
    assert answer.choices
    assert len(tries) == 2


class proxy:
    """Refuses the first requests as `dendrite_server.errors` does, then passes them on."""

    def __init__(self, target: str, *, refusals: int, tries: list[float]) -> None:
        from dendrite_core.errors import QueueFull
        from dendrite_server.errors import error_response

        full = error_response(QueueFull("full", retry_after=0.05))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                tries.append(0.0)
                body = self.rfile.read(int(self.headers["content-length"]))
                if len(tries) <= refusals:
                    self.reply(full.status_code, dict(full.headers), bytes(full.body))
                    return
                answer = httpx.post(f"{target}{self.path}", content=body, timeout=60)
                self.reply(answer.status_code, {"content-type": "application/json"}, answer.content)

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
