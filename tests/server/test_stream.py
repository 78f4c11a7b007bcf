"""Streams: the order of chunks, what each carries, and that they add up to the unstreamed answer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from tests.server.conftest import MODEL, Server

USER: Any = [{"role": "user", "content": "the best branch goes on"}]
CHAT = {"messages": USER, "max_tokens": 8}


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, read as a plain HTTP client would, ended by [DONE]."""
    with http.stream("POST", path, json={"stream": True, **body}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def chat_events(http: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    return events(http, "/v1/chat/completions", {**CHAT, **fields})


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("usage", [False, True])
def test_the_order_of_a_chat_stream(http: httpx.Client, n: int, usage: bool) -> None:
    chunks = chat_events(http, n=n, stream_options={"include_usage": usage})
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    if usage:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] <= 8 * n
        assert last["tree"]["tree_id"].startswith("tree_")
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert all("usage" not in chunk for chunk in chunks)
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert [("tree" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for index in range(n):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert mine[0]["branch_id"].startswith("branch_")
        assert mine[-1]["delta"] == {}
        assert [choice["finish_reason"] is not None for choice in mine] == [False] * (len(mine) - 1) + [True]
        assert all(set(choice["delta"]) == {"content"} for choice in mine[1:-1])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 4, "temperature": 1},
        {"stop": ["e", "zz"], "temperature": 0.5},
        {"logprobs": True, "top_logprobs": 3},
        {"return_token_ids": True},
    ],
    ids=str,
)
def test_a_stream_adds_up_to_the_whole_answer(http: httpx.Client, fields: dict[str, Any]) -> None:
    asked = {"max_tokens": 24, "seed": 5, **fields}
    whole = http.post("/v1/chat/completions", json={**CHAT, **asked}).json()
    chunks = chat_events(http, **asked, stream_options={"include_usage": True})
    for choice in whole["choices"]:
        parts = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert "".join(one["delta"].get("content", "") for one in parts) == choice["message"]["content"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        assert parts[-1]["stop_reason"] == choice["stop_reason"]
        if choice["logprobs"] is not None:
            spoken = [entry for one in parts if one["logprobs"] for entry in one["logprobs"]["content"]]
            assert [entry["token"] for entry in spoken] == [
                entry["token"] for entry in choice["logprobs"]["content"]
            ]
        if "token_ids" in choice:
            assert [token for one in parts for token in one.get("token_ids", [])] == choice["token_ids"]
    counted = chunks[-1]["usage"]
    assert counted["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert counted["prompt_tokens"] == whole["usage"]["prompt_tokens"]


def test_characters_are_never_cut_between_chunks(http: httpx.Client, server: Server) -> None:
    ids = server.engine.tokenizer.encode("é")
    assert len(ids) == 2, "the two bytes are tokens of their own"
    forced = {str(token): 100 for token in ids}
    chunks = chat_events(http, logit_bias=forced, temperature=1, seed=3, max_tokens=64, logprobs=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    entries = [entry for one in choices if one["logprobs"] for entry in one["logprobs"]["content"]]
    raw = b"".join(bytes(entry["bytes"]) for entry in entries)
    text = "".join(one["delta"].get("content", "") for one in choices)
    assert "é" in text
    assert text == raw.decode(errors="replace")


def test_continuous_usage_counts_up(http: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chat_events(http, stream_options=options, ignore_eos=True)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 8
    assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1


def test_a_legacy_stream(http: httpx.Client) -> None:
    asked = {"prompt": [[9, 8], [5, 6, 7]], "n": 2, "max_tokens": 6, "seed": 1, "logprobs": 2}
    whole = http.post("/v1/completions", json=asked).json()
    chunks = events(http, "/v1/completions", {**asked, "stream_options": {"include_usage": True}})
    for chunk in chunks:
        # The SDK has no type for a chunk: its Completion wants every choice to have ended.
        choices = [
            {**choice, "finish_reason": choice["finish_reason"] or "stop"} for choice in chunk["choices"]
        ]
        Completion.model_validate({**chunk, "choices": choices}, strict=True)
    last = chunks.pop()
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert len(last["trees"]) == 2
    for choice in whole["choices"]:
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[0]["branch_id"].startswith("branch_")
        assert all("branch_id" not in part for part in parts[1:])
        assert [part["finish_reason"] for part in parts][-1] == choice["finish_reason"]
        offsets = [at for part in parts if part["logprobs"] for at in part["logprobs"]["text_offset"]]
        assert offsets == choice["logprobs"]["text_offset"]


def test_an_echo_opens_a_legacy_stream(http: httpx.Client) -> None:
    chunks = events(http, "/v1/completions", {"prompt": "the tree", "echo": True, "max_tokens": 3})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks).startswith("the tree")


async def test_sixty_four_branches_at_once(aclient: openai.AsyncOpenAI) -> None:
    stream = await aclient.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=12, n=64, temperature=1, stream=True
    )
    texts: dict[int, str] = dict.fromkeys(range(64), "")
    ended: set[int] = set()
    async for chunk in stream:
        for choice in chunk.choices:
            assert choice.index not in ended
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ended.add(choice.index)
    assert ended == set(range(64))
    assert len(set(texts.values())) > 32


async def test_sixty_four_streams_at_once(aclient: openai.AsyncOpenAI) -> None:
    async def follow() -> str:
        stream = await aclient.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=12, temperature=1, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert len(set(await asyncio.gather(*(follow() for _ in range(64))))) > 32


def test_errors_before_the_first_chunk_have_their_own_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model=MODEL, messages=[], stream=True, extra_body={"parent_id": "branch_none"}
        )
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=USER, stream=True, max_tokens=100_000)


def test_chunks_come_as_they_are_made(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    begin = time.monotonic()
    arrivals = [time.monotonic() - begin for _ in stream]
    assert arrivals[len(arrivals) // 4] < 0.5 * arrivals[-1]
