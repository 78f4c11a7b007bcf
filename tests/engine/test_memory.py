"""The largest step is one that the scheduler could make, and what does not fit says what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dendrite_core.config import EngineConfig, Facts, resolve
from dendrite_core.engine.measures.memory import Limits, largest_step
from dendrite_core.errors import ModelLoadError, RequestError
from dendrite_core.forward.kv_store import most_pages
from dendrite_core.forward.runner import build_runner
from dendrite_core.models.loading import load_model
from dendrite_core.sampling.logprobs import score
from dendrite_core.sampling.sampler import Sampler


@pytest.mark.parametrize(("max_rows", "max_tokens"), [(1, 1), (1, 300), (8, 100), (20, 7), (4, 9000)])
def test_the_largest_step_runs_and_has_all_that_a_step_may_have(
    checkpoint: Callable[[str], Path], max_rows: int, max_tokens: int
) -> None:
    model = load_model(checkpoint("llama"))
    longest = model.config.max_position
    limits = Limits(page_size=16, max_rows=max_rows, max_tokens=max_tokens, max_length=longest)
    batch = largest_step(limits, model.config.vocab_size)
    assert len(batch.token_ids) == min(max(max_tokens, max_rows), max_rows * longest)
    assert max(batch.positions) < longest
    assert batch.rows == len(batch.draws) == max_rows
    for row, table in enumerate(batch.page_tables):
        pages = [page for span in batch.spans if span.first_row <= row < span.end_row for page in span.pages]
        assert pages == list(table)
        assert len(table) * 16 >= batch.kv_lengths[row]
    tables = zip(batch.page_tables, batch.kv_lengths, strict=True)
    assert batch.slots == [table[p // 16] * 16 + p % 16 for table, length in tables for p in range(length)]
    assert len(set(batch.slots)) == len(batch.slots)
    logits = build_runner(model, max(batch.slots) // 16 + 1, 16).run(batch)
    assert len(logits) == max_rows + len(batch.scores)
    assert len(Sampler(model.config.vocab_size, "cpu").sample(logits, batch.draws).token_ids) == max_rows
    assert len(score(logits, batch.scores).read()) == min(512, len(batch.token_ids))


def facts(free_bytes: int | None) -> Facts:
    return Facts(
        device="cuda", dtype="bfloat16", decoder="none", vocab_size=1000, max_position=4096,
        bytes_per_page=2 << 20, free_bytes=free_bytes,
    )  # fmt: skip


@pytest.mark.parametrize("free", [-(5 << 30), 0, 3 << 20])
def test_without_room_for_pages_the_error_names_what_to_change(free: int) -> None:
    asked = EngineConfig(model="m", gpu_memory_utilization=0.2)
    with pytest.raises(ModelLoadError, match=r"gpu_memory_utilization \(now 0\.2\).*max_batch_tokens"):
        resolve(asked, facts(free))


def test_all_that_is_left_goes_to_pages() -> None:
    assert resolve(EngineConfig(model="m"), facts(100 << 20)).num_pages == 50
    assert resolve(EngineConfig(model="m", num_pages=7), facts(100 << 20)).num_pages == 7


def test_a_gpu_gets_no_more_pages_than_its_kernels_address() -> None:
    known = replace(facts(100 << 20), most_pages=40)
    assert resolve(EngineConfig(model="m"), known).num_pages == 40
    with pytest.raises(RequestError, match="num_pages must be at most 40 for this model on cuda, got 41"):
        resolve(EngineConfig(model="m", num_pages=41), known)
    for page_size, head_dim, canaries in ((16, 128, False), (8, 64, True)):
        stride = page_size + 2 * canaries
        most = most_pages(page_size, head_dim, canaries)
        assert most * stride * head_dim < 2**31 <= (most + 1) * stride * head_dim
