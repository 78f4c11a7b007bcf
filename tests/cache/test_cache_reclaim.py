"""Lookups over what is cached, and what gives way under pressure: order, limits, and what must not."""

from __future__ import annotations

from dendrite_core.cache.branch import Branch
from dendrite_core.cache.invariants import check
from dendrite_core.cache.tree import TreeCache
from tests.cache.test_cache_fork import Harness


def cached(harness: Harness, tokens: list[int]) -> None:
    """Content that no branch holds."""
    branch = harness.open(tokens)
    harness.cache.drop(branch)
    harness.cache.records.forget(branch)


def test_open_matches_to_the_token() -> None:
    harness = Harness()
    harness.open(list(range(64)))
    branch = harness.cache.open([*range(41), 999, 998])
    assert branch.kv_length == 41
    harness.compute(branch)
    assert harness.read(branch) == [*range(41), 999, 998]


def test_open_leaves_the_last_token_to_compute() -> None:
    harness = Harness()
    harness.open(list(range(64)))
    assert harness.cache.open(list(range(64))).kv_length == 63
    assert harness.cache.open([0]).kv_length == 0


def test_open_finds_the_longest_start_among_many_children() -> None:
    harness = Harness(num_pages=300)
    for number in range(200):
        harness.open([7, number, number, *range(13)])
    branch = harness.cache.open([7, 150, 150, *range(5), 999])
    assert branch.kv_length == 8


def test_namespaces_do_not_see_each_other() -> None:
    cache = TreeCache(16)
    for namespace in [("salt", "a"), ("salt", "b"), ("lora", "a")]:
        branch = cache.open(list(range(40)), namespace)
        assert branch.kv_length == 0
        cache.start(branch)
        assert cache.reserve(branch, 40)
        cache.advance(branch, 40)
    assert cache.open(list(range(40)), ("salt", "b")).kv_length == 32


def test_roots_of_unused_namespaces_go() -> None:
    cache = TreeCache(16)
    for number in range(1000):
        cache.release(cache.open([1, 2], ("salt", number)))
    assert len(cache.tree.roots) <= 65
    check(cache)


def test_eviction_takes_the_oldest_leaf_first_and_only_what_it_needs() -> None:
    harness = Harness()
    for tokens in ([1] * 48, [2] * 48, [3] * 48):
        cached(harness, tokens)
    cached(harness, [1] * 48)
    assert harness.cache.evict(4) == 4
    matched = [harness.cache.open([token] * 49).kv_length for token in (1, 2, 3)]
    assert matched == [48, 0, 32]
    check(harness.cache)


def test_pinned_content_is_not_evicted() -> None:
    harness = Harness()
    branch = harness.open(list(range(40)))
    assert harness.cache.evict(100) == 0
    assert harness.read(branch) == list(range(40))


def test_idle_branches_are_parked_oldest_first_after_cached_content() -> None:
    harness = Harness(num_pages=8)
    cached(harness, [9] * 32)
    old, young = harness.open([1] * 32), harness.open([2] * 32)
    big = harness.cache.open([3] * 100)
    harness.cache.start(big)
    assert harness.cache.reserve(big, 64)
    assert harness.cache.stats().parked == 1, "only the drop that made the content"
    assert harness.cache.reserve(big, 80)
    assert (old.parked, young.parked) == (True, False)
    check(harness.cache)


def test_running_and_pinned_branches_keep_their_kv() -> None:
    harness = Harness(num_pages=4)
    running, pinned = harness.open([1] * 16), harness.open([2] * 16)
    running.append(1)
    harness.cache.start(running)
    pinned.pinned = True
    big = harness.cache.open([3] * 100)
    harness.cache.start(big)
    used = harness.cache.pool.used
    assert not harness.cache.reserve(big, 48)
    assert harness.cache.pool.used == used, "all or nothing"
    assert harness.read(running) == [1] * 16
    assert harness.read(pinned) == [2] * 16


def test_a_parked_branch_comes_back_with_what_is_still_cached() -> None:
    harness = Harness()
    branch = harness.open(list(range(40)))
    harness.cache.drop(branch)
    assert (branch.parked, branch.kv_length) == (True, 0)
    child = harness.cache.fork(branch)
    harness.cache.evict(1)
    assert harness.cache.resume(branch) == 16
    assert harness.read(harness.compute(child)) == list(range(40))
    assert harness.read(harness.compute(branch)) == list(range(40))


def test_deleting_a_parked_branch_frees_its_cached_pages() -> None:
    harness = Harness()
    branch = harness.open(list(range(48)))
    harness.cache.drop(branch)
    assert harness.cache.release(branch) == 3
    assert harness.cache.pool.used == 0


def test_a_branch_picks_up_what_another_computed_meanwhile() -> None:
    harness = Harness()
    first, second = harness.cache.open([1] * 40), harness.cache.open([1] * 40)
    harness.compute(first)
    table = harness.cache.start(second)
    assert second.kv_length == 32
    assert table.pages == harness.cache.page_table(first)[:2]


def test_records_beyond_the_limit_expire_oldest_first_and_stay_cached() -> None:
    harness = Harness()
    harness.cache = TreeCache(64, 16, max_branches=8)
    kept, waiting, *others = [harness.open([number] * 20) for number in range(8)]
    kept.pinned = True
    waiting.holds = 1
    harness.open([8] * 20)
    alive = [harness.cache.lookup(branch.id) is branch for branch in [kept, waiting, *others]]
    assert alive == [True, True, False, False, True, True, True, True]
    assert harness.cache.open([2] * 20).kv_length == 16
    check(harness.cache)


def test_the_limit_gives_way_when_no_record_may_go() -> None:
    cache = TreeCache(16, max_branches=8)
    branches: list[Branch] = []
    for _ in range(20):
        branches.append(cache.open([1]))
        branches[-1].holds = 1
    assert len(cache.branches) == 20
    for branch in branches:
        branch.holds = 0
    for _ in range(4):
        cache.open([1])
    assert len(cache.branches) <= 12


def test_shared_and_cached_pages_are_counted() -> None:
    harness = Harness()
    prompt = harness.open(list(range(40)))
    harness.continued(prompt, [1] * 30)
    stats = harness.cache.stats()
    assert (stats.pages_used, stats.pages_shared, stats.pages_cached) == (5, 3, 0)
    harness.cache.fork(prompt)
    assert harness.cache.stats().pages_shared == 3
    harness.cache.release(prompt)
    cached(harness, [7] * 16)
    assert harness.cache.stats().pages_cached == 1
