"""Deterministic mode: the same bits alone, in a crowd, forked, chunked, cached, after a restart."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dendrite_core import Engine, SamplingParams
from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import spans
from dendrite_core.errors import ModelLoadError
from dendrite_core.forward.attention import AttentionShape, DenseAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.deterministic import grid
from dendrite_core.forward.deterministic.grid import GridAttention
from dendrite_core.forward.deterministic.runner import FixedRunner, blocks
from dendrite_core.forward.kv_store import KVStore
from tests.checkpoints import make_checkpoint
from tests.engine.conftest import FAMILIES, Reference

MakeEngine = Callable[..., Engine]
PARAMS = SamplingParams(temperature=0.9, seed=3, max_tokens=10, ignore_eos=True, logprobs=5)


def bits(choice: Any) -> tuple[Any, ...]:
    """Tokens and logprobs of a choice, to the bit."""
    return tuple(choice.token_ids), tuple((entry.logprob, tuple(entry.top)) for entry in choice.logprobs)


def mixed_prompts(rng: random.Random) -> list[list[int]]:
    """Short ones, a long one that others begin with, and one longer than a cell."""
    long = [rng.randrange(3, 320) for _ in range(300)]
    short = [[rng.randrange(3, 320) for _ in range(length)] for length in (1, 16, 33)]
    return [*short, long, [*long[:270], 5, 6], long[:40]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_crowd_does_not_change_a_bit(family: str, make_engine: MakeEngine) -> None:
    prompts = mixed_prompts(random.Random(5))
    expected = []
    for prompt in prompts:
        fresh = make_engine(family, deterministic=True)
        expected.append([bits(choice) for choice in fresh.generate(prompt, PARAMS, n=3).choices])
        fresh.close()
    crowds = {"max_batch_tokens": 37, "overlap": True}, {"max_rows": 7, "page_size": 8, "num_pages": 56}
    for settings in crowds:
        engine = make_engine(family, deterministic=True, **settings)
        for _ in range(2):  # The second time what still lies in the cache is found there.
            assert asyncio.run(all_at_once(engine, prompts)) == expected
    stats = engine.stats().result()
    assert stats.preemptions + stats.evictions + stats.parked > 0, "nothing had to be computed again"


async def all_at_once(engine: Engine, prompts: list[list[int]]) -> list[list[tuple[Any, ...]]]:
    found = await asyncio.gather(*(engine.agenerate(prompt, PARAMS, n=3) for prompt in prompts))
    return [[bits(choice) for choice in completion.choices] for completion in found]


def test_a_fork_gives_the_bits_of_the_same_tokens_sent_afresh(make_engine: MakeEngine) -> None:
    engine, rng = make_engine(deterministic=True, max_batch_tokens=64), random.Random(8)
    for _ in range(6):
        prompt = [rng.randrange(3, 320) for _ in range(rng.randint(1, 290))]
        more = [rng.randrange(3, 320) for _ in range(rng.randint(1, 20))]
        parent = engine.generate(prompt, PARAMS)
        child = engine.generate(more, PARAMS, parent_id=parent.branch_id, parent_offset=4, n=2)
        fresh = make_engine(deterministic=True)
        again = fresh.generate([*prompt, *parent.choices[0].token_ids[:4], *more], PARAMS, n=2)
        assert [bits(choice) for choice in child.choices] == [bits(choice) for choice in again.choices]


def test_scores_of_a_prompt_do_not_hang_on_how_it_is_cut(make_engine: MakeEngine) -> None:
    prompt = mixed_prompts(random.Random(2))[3]
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=2)
    found = []
    for chunk in (512, 61, 16):
        engine = make_engine(deterministic=True, max_batch_tokens=chunk)
        stream = engine.submit(engine._request(prompt, params, 1, None, None))
        found.append(stream.wait_started().prompt_logprobs)
    assert found[0]
    assert found[0] == found[1] == found[2]


def test_it_is_still_the_model(make_engine: MakeEngine, in_transformers: Callable[[str], Reference]) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    for family in FAMILIES:
        engine = make_engine(family, deterministic=True)
        for prompt in mixed_prompts(random.Random(7)):
            assert engine.generate(prompt, greedy).choices[0].token_ids == in_transformers(family).greedy(
                prompt, 12
            )


@pytest.mark.parametrize("window", [None, 20, 300])
def test_the_grid_against_dense_attention(window: int | None) -> None:
    """Random rows over shared pages: three siblings of one past, a stranger, a chunk of several tokens."""
    rng = torch.Generator().manual_seed(1)
    shape, size = AttentionShape(4, 2, 16, 0.25, [window]), 16
    store = KVStore(1, 160, size, 2, 16, torch.float32)
    store.data.normal_(generator=rng)
    past = list(range(40))
    tables = [[*past, 50, 51], [*past, 60], [*past, 70], [80, 81], [*past[:20], *range(90, 100)]]
    lengths, new = [660, 641, 656, 17, 470], [1, 1, 1, 2, 11]
    positions = [p for length, n in zip(lengths, new, strict=True) for p in range(length - n, length)]
    rows = [row for row, n in enumerate(new) for _ in range(n)]
    slots = [tables[row][p // size] * size + p % size for row, p in zip(rows, positions, strict=True)]
    starts = [sum(new[:row]) for row in range(len(new) + 1)]
    batch = Batch([0] * 16, positions, slots, starts, lengths, tables, spans(tables), [], list(range(16)))
    forward = ForwardBatch.build(batch, store.device)
    q = torch.randn(16, 4, 16, generator=rng)
    k, v = torch.randn(2, 16, 2, 16, generator=rng).unbind(0)
    results = []
    for attention in (GridAttention(shape, store), DenseAttention(shape, store)):
        attention.plan(forward)
        results.append(attention.attend(0, q, k, v))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_blocks_are_the_batch_cut_into_equal_parts() -> None:
    tables: list[list[int]] = [[0, 1, 2], [0, 3], [4]]
    batch = Batch(
        token_ids=[10, 11, 12, 13, 20, 30, 31],
        positions=[30, 31, 32, 33, 17, 0, 1],
        slots=[30, 31, 32, 33, 49, 64, 65],
        row_starts=[0, 4, 5, 7],
        kv_lengths=[34, 18, 2],
        page_tables=[*tables],
        spans=spans(tables),
        copies=[],
        logits_at=[3, 4, 6],
    )
    first, second, last = blocks(batch, 3)
    assert (first.token_ids, first.row_starts, first.kv_lengths) == ([10, 11, 12], [0, 3], [33])
    assert (second.token_ids, second.row_starts) == ([13, 20, 30], [0, 1, 2, 3])
    assert second.kv_lengths == [34, 18, 1]
    assert (last.token_ids, last.slots, last.kv_lengths) == ([31, 31, 31], [65, -1, -1], [2, 2, 2])
    assert [list(table) for table in last.page_tables] == [[4], [4], [4]]


def test_cells_that_follow_the_batch_would_be_found_out(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: a cell length that changes between two engines moves bits that the tests compare."""
    prompt = mixed_prompts(random.Random(5))[3]
    expected = bits(make_engine(deterministic=True).generate(prompt, PARAMS).choices[0])
    monkeypatch.setattr(grid, "CELL", 48)
    found = bits(make_engine(deterministic=True).generate(prompt, PARAMS).choices[0])
    assert found[0] == expected[0]
    assert found != expected


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "pad_token_id": 0}
    folder = make_checkpoint(tmp_path, "qwen3_moe", **experts)
    with pytest.raises(ModelLoadError, match="mixture of experts"):
        Engine.from_pretrained(str(folder), num_pages=64, deterministic=True, device="cpu")


def test_a_family_that_runs_through_transformers(tmp_path: Path, make_engine: MakeEngine) -> None:
    folder = str(make_checkpoint(tmp_path, "olmo2"))
    settings: dict[str, Any] = {"dtype": "float32", "deterministic": True}
    prompts = mixed_prompts(random.Random(1))[2:4]
    expected = []
    for prompt in prompts:
        with Engine.from_pretrained(folder, num_pages=64, **settings) as engine:
            expected.append([bits(choice) for choice in engine.generate(prompt, PARAMS, n=3).choices])
    with Engine.from_pretrained(folder, num_pages=128, max_batch_tokens=50, **settings) as engine:
        assert asyncio.run(all_at_once(engine, prompts)) == expected


def test_a_machine_where_places_matter_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine(deterministic=True)
    runner = engine._loop.runner
    assert isinstance(runner, FixedRunner)
    logits = runner.decoder.logits
    drift = torch.linspace(1, 1 + 1e-5, runner.block, device=runner.store.device)[:, None]
    runner.decoder.logits = lambda hidden: logits(hidden) * drift
    with pytest.raises(ModelLoadError, match="deterministic mode cannot be kept"):
        runner.prove()
