"""What evaluation harnesses ask of legacy completions: the best of several, and none but the prompt's scores.

Also what every choice says it used.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Server

TEXT = "the tree of thoughts"


def post(http: httpx.Client, path: str = "/v1/completions", **fields: Any) -> dict[str, Any]:
    answer = http.post(path, json={"max_tokens": 4, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def refusal(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"prompt": TEXT, "max_tokens": 4, **fields})
    assert answer.status_code == 400
    error: dict[str, Any] = answer.json()["error"]
    return error


def mean_logprob(choice: dict[str, Any]) -> float:
    logprobs: list[float] = choice["logprobs"]["token_logprobs"]
    return sum(logprobs) / len(logprobs)


def test_best_of_gives_the_likeliest_of_the_same_candidates(http: httpx.Client) -> None:
    asked = {"prompt": TEXT, "seed": 4, "logprobs": 0, "ignore_eos": True, "temperature": 1.5}
    every = post(http, n=6, **asked)["choices"]
    best = post(http, n=2, best_of=6, **asked)
    wanted = sorted(every, key=mean_logprob, reverse=True)[:2]
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in wanted]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    # All candidates were computed, so all are counted.
    assert best["usage"]["completion_tokens"] == 6 * 4


def test_best_of_shows_logprobs_only_if_asked_and_frees_the_others(
    http: httpx.Client, server: Server
) -> None:
    before = server.pages()["branches"]
    body = post(http, prompt=TEXT, best_of=5, seed=1)
    (choice,) = body["choices"]
    assert choice["logprobs"] is None
    server.settle("branches", before + 2)
    assert http.get(f"/v1/branches/{body['id']}").json()["id"] == choice["branch_id"]


@pytest.mark.parametrize(
    "fields", [{"best_of": 2, "n": 3}, {"best_of": 2, "stream": True}, {"best_of": 100_000}, {"best_of": 0}]
)
def test_a_best_of_that_cannot_be_is_refused(http: httpx.Client, fields: dict[str, Any]) -> None:
    assert refusal(http, **fields)["param"] == "best_of"


def test_no_tokens_are_generated_when_none_are_wanted(http: httpx.Client) -> None:
    asked = {"prompt": TEXT, "echo": True, "logprobs": 1, "temperature": 0}
    longer, body = post(http, **asked), post(http, **{**asked, "max_tokens": 0})
    (choice,) = body["choices"]
    prompt_tokens = body["usage"]["prompt_tokens"]
    assert (choice["text"], choice["finish_reason"]) == (TEXT, "length")
    assert body["usage"]["completion_tokens"] == 0
    expected = {name: values[:prompt_tokens] for name, values in longer["choices"][0]["logprobs"].items()}
    assert choice["logprobs"] == expected


def test_a_prompt_alone_is_a_branch_to_go_on_from(http: httpx.Client) -> None:
    begun = post(http, prompt=TEXT, max_tokens=0)
    branch = begun["choices"][0]["branch_id"]
    on = post(http, prompt="", parent_id=branch, temperature=0)
    assert on["choices"][0]["text"] == post(http, prompt=TEXT, temperature=0)["choices"][0]["text"]
    assert on["tree"]["shared_tokens"] == begun["usage"]["prompt_tokens"]


def test_an_empty_answer_streams(http: httpx.Client) -> None:
    asked = {"prompt": TEXT, "max_tokens": 0, "echo": True, "stream": True}
    answer = http.post("/v1/completions", json=asked)
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(choice["text"] for frame in frames for choice in frame["choices"]) == TEXT
    assert frames[-1]["choices"][0]["finish_reason"] == "length"


def test_a_prompt_may_fill_the_context_when_nothing_follows(http: httpx.Client, server: Server) -> None:
    ids = [5] * server.engine.config.max_model_len
    assert post(http, prompt=ids, max_tokens=0)["usage"]["prompt_tokens"] == len(ids)
    error = refusal(http, prompt=ids, max_tokens=1)
    assert error["code"] == "context_length_exceeded"


def test_every_choice_says_what_it_used(http: httpx.Client) -> None:
    first = post(http, prompt=TEXT, n=2, ignore_eos=True)
    prompt_tokens = first["usage"]["prompt_tokens"]
    for choice in first["choices"]:
        used = choice["usage"]
        assert (used["completion_tokens"], used["own_tokens"]) == (4, 4)
        assert used["shared_tokens"] == prompt_tokens
    parent = first["choices"][0]["branch_id"]
    child = post(http, prompt=" and so", parent_id=parent, max_tokens=2, ignore_eos=True)
    used = child["choices"][0]["usage"]
    assert used["cached_tokens"] == child["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert used["shared_tokens"] == child["usage"]["prompt_tokens"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_finish_chunk_says_what_its_choice_used(http: httpx.Client, path: str) -> None:
    said = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": ["a", "b c d"]}
    asked: dict[str, Any] = {**said, "n": 2, "max_tokens": 3, "seed": 2, "stop": ["e", "a"]}
    whole = http.post(path, json=asked).json()["choices"]
    answer = http.post(path, json={**asked, "stream": True})
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    ends = {one["index"]: one for frame in frames for one in frame["choices"] if one["finish_reason"]}
    assert [ends[i]["usage"]["completion_tokens"] for i in sorted(ends)] == [
        choice["usage"]["completion_tokens"] for choice in whole
    ]
    assert all("usage" in one for one in ends.values())
