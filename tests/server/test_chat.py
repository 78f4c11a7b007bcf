"""Chat completions through the OpenAI SDK: shapes, sampling fields, usage, roles, logprobs."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.server.conftest import MODEL, Server

USER: Any = [{"role": "user", "content": "the best branch goes on"}]


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=USER, max_tokens=8, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint is not None
    assert [choice.index for choice in answer.choices] == [0]
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3, "logprobs": True, "top_logprobs": 2},
        {"stop": "e"},
        {"n_branches": 2, "return_token_ids": True},
    ],
    ids=str,
)
def test_answers_are_valid_by_the_sdks_own_types(http: httpx.Client, fields: dict[str, Any]) -> None:
    body = http.post("/v1/chat/completions", json={"messages": USER, "max_tokens": 6, **fields}).json()
    ChatCompletion.model_validate(body, strict=True)
    assert set(body) == {
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "service_tier",
        "choices",
        "usage",
        "tree",
    }
    for choice in body["choices"]:
        assert choice["message"]["refusal"] is None
        assert choice["branch_id"].startswith("branch_")


async def test_the_async_client(aclient: openai.AsyncOpenAI) -> None:
    ask = aclient.chat.completions.create
    answers = await asyncio.gather(*(ask(model=MODEL, messages=USER, max_tokens=4) for _ in range(8)))
    assert len({answer.id for answer in answers}) == 8


def test_n_choices_come_in_order_and_the_prompt_counts_once(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(model=MODEL, messages=USER, max_tokens=1)
    many = client.chat.completions.create(model=MODEL, messages=USER, max_tokens=5, n=8, temperature=1)
    assert [choice.index for choice in many.choices] == list(range(8))
    assert len({choice.message.content for choice in many.choices}) > 1
    assert one.usage is not None
    assert many.usage is not None
    assert many.usage.prompt_tokens == one.usage.prompt_tokens
    assert many.usage.completion_tokens <= 40
    details = many.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens is not None
    assert details.cached_tokens <= many.usage.prompt_tokens


def test_a_seed_repeats_and_another_differs(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=12, n=3, seed=seed, temperature=1
        )
        return [choice.message.content for choice in answer.choices]

    assert ask(7) == ask(7)
    assert ask(7) != ask(8)


def test_max_completion_tokens_is_max_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=USER, max_completion_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 3


def test_stop_strings_end_a_choice_and_stay_out_of_it(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": MODEL, "messages": USER, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    assert whole
    stop = whole[len(whole) // 2 :][:3]
    cut = client.chat.completions.create(**ask, stop=[stop, "never said"]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.model_extra is not None
    assert cut.model_extra["stop_reason"] == stop
    kept = client.chat.completions.create(**ask, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].message.content == whole[: whole.index(stop) + len(stop)]


def test_the_end_token_ends_a_choice(client: openai.OpenAI, server: Server) -> None:
    end = server.engine.tokenizer.eos_ids[0]
    forced = {str(end): 100}
    answer = client.chat.completions.create(model=MODEL, messages=USER, logit_bias=forced, max_tokens=9)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == ""
    goes_on = client.chat.completions.create(
        model=MODEL, messages=USER, logit_bias=forced, max_tokens=9, extra_body={"ignore_eos": True}
    )
    assert goes_on.choices[0].finish_reason == "length"


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=6, temperature=0, logprobs=True, top_logprobs=4
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 6
    spoken = b"".join(bytes(entry.bytes or ()) for entry in logprobs.content)
    assert spoken.decode(errors="replace") == answer.choices[0].message.content
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 4
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0001
    bare = client.chat.completions.create(model=MODEL, messages=USER, max_tokens=2, logprobs=True)
    assert bare.choices[0].logprobs is not None
    assert bare.choices[0].logprobs.content is not None
    assert bare.choices[0].logprobs.content[0].top_logprobs == []


def test_token_ids_on_request(http: httpx.Client, server: Server) -> None:
    asked = {"messages": USER, "max_tokens": 6, "return_token_ids": True, "ignore_eos": True}
    choice = http.post("/v1/chat/completions", json=asked).json()["choices"][0]
    assert len(choice["token_ids"]) == 6
    assert server.engine.tokenizer.decode(choice["token_ids"]) == choice["message"]["content"]


def test_every_role_and_content_parts_reach_the_prompt(client: openai.OpenAI, server: Server) -> None:
    messages: Any = [
        {"role": "developer", "content": "be a tree"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "refusal": "three", "annotations": []},
        {"role": "tool", "content": "four", "tool_call_id": "call"},
        {"role": "function", "content": "five", "name": "f"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    text = "".join(
        f"<|im_start|>{role}\n{content}<|im_end|>\n"
        for role, content in [
            ("system", "be a tree"),
            ("user", "one two"),
            ("assistant", "three"),
            ("tool", "four"),
            ("tool", "five"),
        ]
    )
    expected = server.engine.tokenizer.encode(text + "<|im_start|>assistant\n", special=True)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(expected)


def test_an_assistants_turn_can_be_begun_for_it(client: openai.OpenAI, server: Server) -> None:
    messages: Any = [*USER, {"role": "assistant", "content": "I think"}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=1, extra_body={"continue_final_message": True}
    )
    text = "<|im_start|>user\nthe best branch goes on<|im_end|>\n<|im_start|>assistant\nI think"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(server.engine.tokenizer.encode(text, special=True))


def test_a_salt_separates_caches(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "a past long enough to fill some pages " * 4}]

    def cached(salt: str) -> int | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=1, extra_body={"cache_salt": salt}
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens

    assert cached("a") == 0
    assert cached("a")
    assert cached("b") == 0


def test_a_branch_goes_on_under_its_own_salt_or_none(client: openai.OpenAI, http: httpx.Client) -> None:
    made = http.post("/v1/completions", json={"prompt": "a b", "max_tokens": 2, "cache_salt": "a"}).json()
    on = {"parent_id": made["id"], "max_tokens": 2}
    for fits in ({}, {"cache_salt": "a"}):
        assert http.post("/v1/completions", json={**on, **fits}).status_code == 200
    refused = http.post("/v1/completions", json={**on, "cache_salt": "b"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "cache_salt"


def test_unicode_comes_in_whole(client: openai.OpenAI, server: Server) -> None:
    text = "Grüße, 木と枝, 🌳\u2028\x85"
    messages: Any = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(server.engine.tokenizer.encode(prompt, special=True))
