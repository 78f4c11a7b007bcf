"""The GPU's work list, checked without a GPU: every query meets every token it may see exactly once."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.cuda.device_plan import Capacity, DevicePlan
from dendrite_core.forward.cuda.work_list import Tiles, WorkList, plan
from tests.forward.forest import Forest

PAGE = 4


def forest(seed: int) -> Forest:
    found, rng = Forest(PAGE, 600, seed, scattered=True), random.Random(seed)
    found.step({found.open(): rng.randint(1, 60)})
    for _ in range(rng.randint(0, 20)):
        child = found.fork(rng.choice(found.rows)) if rng.random() < 0.9 else found.open()
        found.step({child: rng.randint(1, 30)})
    return found


def met(work: WorkList, batch: Batch, grown: int) -> Counter[tuple[int, int, int]]:
    """(query, position, page) of everything the kernels would read and not mask."""
    seen: Counter[tuple[int, int, int]] = Counter()
    for first_page, begin, end, _, count, first, reads, _ in [*work.narrow.tolist(), *work.wide.tolist()]:
        for token in range(begin, min(end, begin + reads + grown)):
            page = int(work.pages[first_page + token // PAGE])
            for query in range(first, first + count):
                if token <= batch.positions[query]:
                    seen[query, token, page] += 1
    return seen


def expected(batch: Batch) -> Counter[tuple[int, int, int]]:
    rows = [r for r, n in enumerate(batch.row_starts[1:]) for _ in range(n - batch.row_starts[r])]
    return Counter(
        (query, token, batch.page_tables[row][token // PAGE])
        for query, row in enumerate(rows)
        for token in range(batch.positions[query] + 1)
    )


@pytest.mark.parametrize("grid", [None, 16])
@pytest.mark.parametrize("seed", range(12))
def test_every_token_is_met_once(seed: int, grid: int | None) -> None:
    tiles = Tiles(4, 2, PAGE, 16, 0 if grid else 32, 8, 8, 6, 3, 16, 0, grid)
    grown, rng = forest(seed), random.Random(seed)
    for new in (dict.fromkeys(grown.rows, 1), {row: rng.randint(1, 9) for row in grown.rows}):
        batch = grown.step(new)
        work = plan(batch, tiles, spare=2)
        assert met(work, batch, 0) == expected(batch)
        assert len(work.query_slots) == work.narrow[:, 4].sum() + work.wide[:, 4].sum()
        written = sorted(slot for slot in work.query_slots.tolist() if slot >= 0)
        assert written == list(range(work.slots))


def test_a_plan_serves_rows_that_grow() -> None:
    grown, tiles = forest(3), Tiles(4, 2, PAGE, 16, 32, 8, 8, 6, 3, 16, 0)
    batch = grown.step(dict.fromkeys(grown.rows, 1))
    work = plan(batch, tiles, spare=2)
    for steps in range(1, 6):
        batch = grown.step(dict.fromkeys(grown.rows, 1))
        assert all(length <= room for length, room in zip(batch.kv_lengths, work.room, strict=True))
        for row, length in enumerate(batch.kv_lengths):
            last = (length - 1) // PAGE
            work.pages[work.tail_pages[row] + last] = batch.page_tables[row][last]
        assert met(work, batch, steps) == expected(batch)


@pytest.mark.parametrize("stages", [1, 2])
def test_on_the_device_a_plan_replaces_the_one_before(stages: int) -> None:
    tiles = Tiles(4, 2, PAGE, 16, 32, 8, 8, 6, 3, 16, 0)
    room = Capacity(narrow=400, wide=400, queries=4000, pages=900, tokens=40, slots=4000)
    held = DevicePlan(room, 8, 4, torch.device("cpu"), stages=stages)
    for seed in (4, 5, 6, 1):
        grown = forest(seed)
        work = plan(grown.step(dict.fromkeys(grown.rows, 1)), tiles)
        assert room.holds(work)
        held.load(work)
        assert held.counts.tolist() == [len(work.narrow), len(work.wide), 0, 0]
        arrays = (work.narrow, held.narrow), (work.wide, held.wide), (work.pages, held.pages)
        for array, found in (*arrays, (work.query_slots, held.query_slots)):
            assert np.array_equal(found[: array.size], array.reshape(-1))
        starts, tokens = held.slot_starts.tolist(), len(work.slot_starts)
        assert starts[:tokens] == work.slot_starts.tolist()
        assert starts[tokens:] == [work.slots] * (41 - tokens), "a token beyond the plan has nothing to merge"


@pytest.mark.parametrize(
    ("rows", "length", "programs", "cuts"),
    [(64, 2032, 528, 1), (16, 8176, 396, 3), (24, 8176, 528, 2), (64, 3056, 528, 1), (1, 32752, 528, 64)],
)
def test_heavy_rows_are_cut_so_that_rounds_are_full(rows: int, length: int, programs: int, cuts: int) -> None:
    """What was fastest on an H200 for rows that share nothing and 8 K/V heads."""
    found = Forest(16, 20_000, 0)
    batch = found.step({found.open(): length for _ in range(rows)})
    batch = found.step(dict.fromkeys(found.rows, 1))
    work = plan(batch, Tiles(4, 8, 16, wide=0, programs=programs))
    assert len(work.narrow) == rows * cuts
    assert work.slots == (rows * cuts if cuts > 1 else 0)
