"""Legacy completions and the tokenizer endpoints: prompts in every form, echo, logprobs, branches."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion, Model

from tests.server.conftest import MODEL, Server

TEXT = "the tree of thoughts"


def complete(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"max_tokens": 4, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    if not fields.get("echo"):
        # Nothing precedes an echoed prompt's first token: null in practice, a number in the SDK's type.
        Completion.model_validate(body, strict=True)
    return body


def test_the_sdk_completes(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=TEXT)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 16


def test_text_and_its_ids_are_the_same_prompt(http: httpx.Client, server: Server) -> None:
    ids = server.engine.tokenizer.encode_prompt(TEXT)
    by_text, by_ids = complete(http, prompt=TEXT), complete(http, prompt=ids)
    assert by_text["choices"][0]["text"] == by_ids["choices"][0]["text"]
    assert by_text["usage"]["prompt_tokens"] == len(ids)


def test_many_prompts_with_many_choices_are_numbered_through(http: httpx.Client) -> None:
    body = complete(http, prompt=[TEXT, "a page"], n=2)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in body["choices"]]
    assert texts[0] == texts[1] == complete(http, prompt=TEXT)["choices"][0]["text"]
    assert texts[2] == texts[3] == complete(http, prompt="a page")["choices"][0]["text"]
    assert len(body["trees"]) == 2
    assert len({choice["branch_id"] for choice in body["choices"]}) == 4


def test_echo_puts_the_prompt_first(http: httpx.Client, server: Server) -> None:
    plain = complete(http, prompt=TEXT)["choices"][0]["text"]
    assert complete(http, prompt=TEXT, echo=True)["choices"][0]["text"] == TEXT + plain
    ids = server.engine.tokenizer.encode(TEXT)
    assert complete(http, prompt=[ids], echo=True)["choices"][0]["text"] == TEXT + plain


def test_legacy_logprobs(http: httpx.Client) -> None:
    choice = complete(http, prompt=TEXT, logprobs=3, max_tokens=6)["choices"][0]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["text_offset"]) == 6
    assert logprobs["text_offset"][0] == 0
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert len(top) == 3
        assert top[token] == logprob == max(top.values())


def test_the_token_that_ends_a_text_has_its_logprob_too(http: httpx.Client) -> None:
    """Whoever scores a prompt by echo counts on exactly `max_tokens` entries after it."""
    first = complete(http, prompt=TEXT, max_tokens=1, temperature=0, return_token_ids=True)["choices"][0]
    asked = {"prompt": TEXT, "max_tokens": 1, "temperature": 0, "logprobs": 1}
    ended = complete(http, **asked, stop_token_ids=first["token_ids"])["choices"][0]
    assert (ended["text"], ended["finish_reason"]) == ("", "stop")
    plain = complete(http, **asked)["choices"][0]
    assert ended["logprobs"]["token_logprobs"] == plain["logprobs"]["token_logprobs"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_with_logprobs_scores_the_prompt(http: httpx.Client, server: Server, stream: bool) -> None:
    ids = server.engine.tokenizer.encode(TEXT)
    asked = {
        "prompt": ids,
        "echo": True,
        "logprobs": 2,
        "max_tokens": 3,
        "temperature": 0,
        "ignore_eos": True,
    }
    if stream:
        lines = http.post("/v1/completions", json={**asked, "stream": True}).text.split("\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
        logprobs = {name: [one for part in parts for one in part[name]] for name in parts[0]}
    else:
        logprobs = complete(http, **asked)["choices"][0]["logprobs"]
    assert {len(values) for values in logprobs.values()} == {len(ids) + 3}
    assert "".join(logprobs["tokens"][: len(ids)]) == TEXT
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(logprob <= 0 for logprob in logprobs["token_logprobs"][1:])
    assert logprobs["text_offset"][:2] == [0, len(logprobs["tokens"][0])]
    # A prompt's score is what the same text scores when it is generated.
    spoken = complete(http, **asked, return_token_ids=True)["choices"][0]["token_ids"]
    again = complete(http, **{**asked, "prompt": ids + spoken})["choices"][0]["logprobs"]["token_logprobs"]
    assert again[len(ids) : len(ids) + 3] == pytest.approx(logprobs["token_logprobs"][-3:], abs=1e-3)


def test_prompt_logprobs_as_vllm_has_them(http: httpx.Client) -> None:
    prompt = [5, 6, 7]
    entries = complete(http, prompt=prompt, prompt_logprobs=2)["choices"][0]["prompt_logprobs"]
    assert entries[0] is None
    for token, entry in zip(prompt[1:], entries[1:], strict=True):
        assert set(entry[str(token)]) == {"logprob", "rank", "decoded_token"}
        assert sorted(one["rank"] for one in entry.values() if one["rank"]) == [1, 2]


def test_a_completion_forks_and_goes_on(http: httpx.Client) -> None:
    whole = complete(http, prompt=TEXT, max_tokens=8, ignore_eos=True)["choices"][0]["text"]
    first = complete(http, prompt=TEXT, ignore_eos=True)
    rest = complete(http, parent_id=first["id"], n_branches=2, ignore_eos=True)
    assert [first["choices"][0]["text"] + choice["text"] for choice in rest["choices"]] == [whole, whole]
    more = complete(http, prompt=" and", parent_id=first["choices"][0]["branch_id"])
    assert more["tree"]["parent_id"] == first["choices"][0]["branch_id"]
    assert more["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + 4


def test_tokenize_and_back(http: httpx.Client, server: Server) -> None:
    answer = http.post("/tokenize", json={"model": MODEL, "prompt": TEXT, "return_token_strs": True}).json()
    ids = server.engine.tokenizer.encode_prompt(TEXT)
    assert answer["tokens"] == ids
    assert answer["count"] == len(ids)
    assert answer["max_model_len"] == 2048
    assert "".join(answer["token_strs"]) == TEXT
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": TEXT}


def test_tokenize_messages(http: httpx.Client, server: Server) -> None:
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert http.post("/tokenize", json=asked).json()["tokens"] == server.engine.tokenizer.encode(
        text, special=True
    )
    bare = http.post("/tokenize", json={**asked, "add_generation_prompt": False}).json()
    assert http.post("/detokenize", json={"tokens": bare["tokens"]}).json()["prompt"].endswith("<|im_end|>\n")


def test_models(client: openai.OpenAI, http: httpx.Client, server: Server) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "dendrite"
    Model.model_validate(http.get(f"/v1/models/{MODEL}").json(), strict=True)
    assert http.get("/v1/models").json()["data"][0]["root"] == server.engine.config.model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("another/model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_health_and_version(http: httpx.Client) -> None:
    health = http.get("/health").json()
    assert health["status"] == "ok"
    pages = health["pages"]
    assert pages["total"] == pages["free"] + pages["used"] + pages["cached"]
    assert set(http.get("/version").json()) == {"version"}
