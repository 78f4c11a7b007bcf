"""Tokens and probabilities equal transformers', alone, batched, chunked and forked."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from dendrite_core import Engine, SamplingParams
from tests.engine.conftest import FAMILIES, Reference

MakeEngine = Callable[..., Engine]
InTransformers = Callable[[str], Reference]
NEW = 12
GREEDY = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)


def fixed_prompts(count: int, longest: int = 90) -> list[list[int]]:
    rng = random.Random(24)
    return [[rng.randrange(3, 320) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_greedy_001(family: str, make_engine: MakeEngine, in_transformers: InTransformers) -> None:
    prompts = fixed_prompts(50 if family == "llama" else 16)
    expected = [in_transformers(family).greedy(prompt, NEW) for prompt in prompts]
    engine = make_engine(family)
    alone = [engine.generate(prompt, GREEDY).choices[0].token_ids for prompt in prompts]
    assert alone == expected
    chunked = make_engine(family, max_batch_tokens=7)
    streams = [chunked.submit(chunked._request(prompt, GREEDY, 1, None, None)) for prompt in prompts]
    batched = [[t for news in stream for d in news.choices for t in d.token_ids] for stream in streams]
    assert batched == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_forked_branches_equal_the_same_tokens_computed_alone(
    family: str, make_engine: MakeEngine, in_transformers: InTransformers
) -> None:
    engine, rng = make_engine(family), random.Random(7)
    for prompt in fixed_prompts(6, longest=60):
        parent = engine.generate(prompt, GREEDY)
        past = prompt + parent.choices[0].token_ids
        for offset in (None, 0, 5):
            kept = past if offset is None else past[: len(prompt) + offset]
            more = [rng.randrange(3, 320) for _ in range(rng.randint(1, 20))]
            child = engine.generate(more, GREEDY, parent_id=parent.branch_id, parent_offset=offset, n=2)
            alone = in_transformers(family).greedy(kept + more, NEW)
            assert [choice.token_ids for choice in child.choices] == [alone, alone]
            assert child.usage.prompt_tokens == len(kept + more)


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_logprobs_002(family: str, make_engine: MakeEngine, in_transformers: InTransformers) -> None:
    engine, same, seen = make_engine(family), 0, 0
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=5)
    for prompt in fixed_prompts(20):
        choice = engine.generate(prompt, params).choices[0]
        logits = in_transformers(family).logits(prompt + choice.token_ids)[len(prompt) - 1 : -1]
        best = logits.log_softmax(-1).topk(5)
        for position, entry in enumerate(choice.logprobs):
            same += len({token for token, _ in entry.top} & set(best.indices[position].tolist()))
            seen += 5
            assert entry.logprob == pytest.approx(best.values[position, 0].item(), abs=1e-3)
    assert same / seen >= 0.98


def test_bfloat16_stays_near_float32(make_engine: MakeEngine, in_transformers: InTransformers) -> None:
    engine = make_engine(dtype="bfloat16")
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logprobs=20)
    for prompt in fixed_prompts(10):
        entry = engine.generate(prompt, params).choices[0].logprobs[0]
        exact = in_transformers("llama").logits(prompt)[-1].log_softmax(-1)
        found = torch.tensor([value for _, value in entry.top])
        torch.testing.assert_close(found, exact[[token for token, _ in entry.top]], atol=0.5, rtol=0.1)


@pytest.mark.parametrize("chunk", [512, 7])
def test_prompt_logprobs_equal_a_full_forward(
    chunk: int, make_engine: MakeEngine, in_transformers: InTransformers
) -> None:
    engine = make_engine(max_batch_tokens=chunk)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=3)
    for prompt in fixed_prompts(5) * 2:
        found = engine.generate(prompt, params).started.prompt_logprobs
        assert found is not None
        assert len(found) == len(prompt)
        assert found[0] is None
        exact = in_transformers("llama").logits(prompt).log_softmax(-1)
        for position, entry in enumerate(found[1:], start=1):
            assert entry is not None
            assert entry.logprob == pytest.approx(exact[position - 1, prompt[position]].item(), abs=1e-3)
            assert [token for token, _ in entry.top] == exact[position - 1].topk(3).indices.tolist()
