"""What a fork costs: microseconds by length of the shared past, one at a time and 64 in one call.

Pure bookkeeping, so any machine will do; the numbers are Python's. Doubt them on a busy core: the 99th
percentile is the neighbours', and one pass over a fresh cache can land on a bad memory layout, so passes
at all lengths are interleaved and the ratio is taken of medians.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from benchmarks.record import emit
from dendrite_core.cache.branch import Branch
from dendrite_core.cache.tree import TreeCache

PAGE_SIZE = 16


def measure_fork(prefix_length: int, forks: int) -> dict[str, float]:
    """Time `forks` single forks, and forks of 64 in one call, of a branch of `prefix_length` tokens.

    Keys: prefix_length, forks; fork_p50_us, fork_p99_us; fork_many_64_p50_us, fork_many_64_p99_us;
    pages_copied (by all of them: 0). The clock's own cost is part of every figure.
    """
    cache, branch = _computed(prefix_length, room=2 * forks)
    used = cache.pool.used
    single, many = _single(cache, branch, forks), _many(cache, branch, max(forks // 64, 1))
    assert cache.pool.used == used, "a fork took a page"
    return {
        "prefix_length": prefix_length,
        "forks": forks,
        "fork_p50_us": _percentile(single, 50),
        "fork_p99_us": _percentile(single, 99),
        "fork_many_64_p50_us": _percentile(many, 50),
        "fork_many_64_p99_us": _percentile(many, 99),
        "pages_copied": cache.stats().copies,
    }


def compare_lengths(
    lengths: tuple[int, ...] = (1_000, 128_000), forks: int = 2_000, passes: int = 9
) -> dict[str, float]:
    """Median over interleaved passes of the p50 at each length, and the ratio of the last to the first."""
    seen: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(passes):
        for length in lengths:
            seen[length].append(measure_fork(length, forks)["fork_p50_us"])
    medians = {length: sorted(times)[passes // 2] for length, times in seen.items()}
    result = {f"fork_p50_us_at_{length}": median for length, median in medians.items()}
    return result | {"ratio": medians[lengths[-1]] / medians[lengths[0]]}


def _computed(length: int, room: int) -> tuple[TreeCache, Branch]:
    """A branch whose KV is all there, with a partly filled tail page: the dearer kind to fork."""
    length += length % PAGE_SIZE == 0
    cache = TreeCache(length // PAGE_SIZE + 2, PAGE_SIZE, max_branches=room + 1024)
    branch = cache.open(range(length))
    cache.start(branch)
    assert cache.reserve(branch, length)
    cache.advance(branch, length)
    cache.stop(branch)
    return cache, branch


def _single(cache: TreeCache, branch: Branch, forks: int) -> list[int]:
    fork, times = cache.fork, [0] * forks
    with _frozen():
        for index in range(forks):
            begin = perf_counter_ns()
            fork(branch)
            times[index] = perf_counter_ns() - begin
    return times


def _many(cache: TreeCache, branch: Branch, calls: int) -> list[int]:
    times = [0] * calls
    with _frozen():
        for index in range(calls):
            begin = perf_counter_ns()
            cache.fork_many(branch, 64)
            times[index] = perf_counter_ns() - begin
    return times


@contextmanager
def _frozen() -> Iterator[None]:
    """The collector as the engine keeps it: what exists is frozen, what is born is still collected."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _percentile(nanoseconds: list[int], percent: int) -> float:
    return sorted(nanoseconds)[(len(nanoseconds) - 1) * percent // 100] / 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix-length", type=int, nargs="+", default=[1_000, 8_000, 32_000, 128_000])
    parser.add_argument("--num-forks", type=int, default=20_000)


def run(args: argparse.Namespace) -> None:
    """Print the table of fork times and the ratio between the longest and the shortest past."""
    rows = [measure_fork(length, args.num_forks) for length in args.prefix_length]
    flatness = compare_lengths((min(args.prefix_length), max(args.prefix_length)))
    print(f"longest over shortest past: {flatness['ratio']:.2f}")
    emit("fork-overhead", {"page_size": PAGE_SIZE, **flatness}, rows, save=args.save)
