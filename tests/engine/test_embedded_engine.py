"""The shipped model through the engine: golden tokens against transformers, and pasts computed once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dendrite_core import Engine, RequestError, SamplingParams
from tests.engine.conftest import Reference

EMBEDDED = Path(__file__).parents[2] / "dendrite_core" / "embedded"
ASKS = [
    "Solve 24: {}",
    "Solve 24 step by step: {}",
    "Explore 24: {}",
    "Propose 8 next steps for 24: {}",
    "Judge for 24: {}",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_pretrained(str(EMBEDDED), kv_cache_bytes=1 << 28) as engine:
        yield engine


def fifty_prompts(engine: Engine) -> list[list[int]]:
    rng = random.Random(24)
    texts = [ask.format(" ".join(str(rng.randint(1, 13)) for _ in range(4))) for ask in ASKS * 10]
    return [list(engine.encode_chat([{"role": "user", "content": t}], continues=False)[0]) for t in texts]


def test_golden_greedy_001_embedded(engine: Engine) -> None:
    """50 prompts at once and forked: every greedy token equals transformers'."""
    new, in_transformers = 20, Reference(EMBEDDED)
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    prompts = fifty_prompts(engine)
    streams = [engine.submit(engine._request(prompt, params, 2, None, None)) for prompt in prompts]
    for prompt, stream in zip(prompts, streams, strict=True):
        found: list[list[int]] = [[], []]
        for news in stream:
            for delta in news.choices:
                found[delta.index] += delta.token_ids
        expected = in_transformers.greedy(prompt, new)
        assert found == [expected, expected]


def test_golden_logprobs_002_embedded(engine: Engine) -> None:
    in_transformers, same, seen = Reference(EMBEDDED), 0, 0
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=5)
    for prompt in fifty_prompts(engine)[:20]:
        choice = engine.generate(prompt, params).choices[0]
        logits = in_transformers.logits(prompt + choice.token_ids)[len(prompt) - 1 : -1]
        best = torch.topk(logits, 5).indices.tolist()
        for entry, theirs in zip(choice.logprobs, best, strict=True):
            same += len({token for token, _ in entry.top} & set(theirs))
            seen += 5
    assert same / seen >= 0.98


def test_sixteen_branches_of_a_thousand_tokens_compute_one_prefill(engine: Engine) -> None:
    rng = random.Random(5)
    params = SamplingParams(max_tokens=4, ignore_eos=True, seed=1)
    computed = []
    for count in (1, 16):
        prompt = [rng.randrange(300, 1000) for _ in range(1000)]
        before = engine.stats().result().prefill_tokens
        engine.generate(prompt, params, n=count)
        computed.append(engine.stats().result().prefill_tokens - before)
    assert computed == [1000, 1000]


def test_another_chat_template_takes_the_place_of_the_models_own() -> None:
    template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    with Engine.from_pretrained(str(EMBEDDED), chat_template=template) as engine:
        told, _ = engine.encode_chat([{"role": "user", "content": "4 + 5"}], continues=False)
        assert list(told) == engine.tokenizer.encode("<4 + 5>")
    with pytest.raises(RequestError, match="not valid jinja") as caught:
        Engine.from_pretrained(str(EMBEDDED), chat_template="{% for %}")
    assert caught.value.param == "chat_template"
