"""The number of threads follows what is fastest, and looking for it costs little."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from dendrite_core.forward.threads import Search, Threads

IDLE = {1: 2.0, 2: 1.2, 4: 0.9, 8: 1.1}
BUSY = {1: 2.1, 2: 60.0, 4: 180.0, 8: 400.0}


def spend(search: Search, cost: Mapping[int, float], steps: int) -> float:
    """Total time of so many steps on a machine where a step costs that much."""
    total = 0.0
    for _ in range(steps):
        total += cost[search.threads]
        search.took(cost[search.threads])
    return total


@pytest.mark.parametrize(("most", "best"), [(2, 2), (8, 4), (3, 3)])
def test_idle_cores_are_used_as_far_as_they_help(most: int, best: int) -> None:
    search, cost = Search(most), {**IDLE, 3: 1.0}
    spend(search, cost, 60)
    assert spend(search, cost, 2000) <= 1.03 * 2000 * cost[best]


def test_busy_cores_are_left_alone() -> None:
    search = Search(8)
    spend(search, BUSY, 20)
    assert spend(search, BUSY, 20_000) <= 1.1 * 20_000 * BUSY[1]


def test_a_load_that_comes_is_noticed_within_a_few_steps_and_one_that_goes_in_time() -> None:
    search = Search(2)
    spend(search, IDLE, 100)
    assert search.threads == 2
    spend(search, BUSY, 10)
    assert search.threads == 1
    spend(search, IDLE, 20_000)
    assert search.threads == 2


def test_kinds_of_steps_are_told_apart() -> None:
    before, threads = torch.get_num_threads(), Threads(2)
    for tokens in (1, 16, 512, 1):
        with threads.step(tokens):
            assert 1 <= torch.get_num_threads() <= 2
    torch.set_num_threads(before)
    assert len(threads._searches) == 3
