"""What does a fork cost, and does it depend on the past's length?

`fork_time_us` is one call that makes so many children, in the cache alone: pure bookkeeping, so any machine
will do and pasts of 128k tokens cost nothing to make. `first_token_after_fork_ms` is the whole engine, from
asking for the children of a computed branch to the last child's first token, at lengths that the model has
room for. `memory_overhead_bytes` is what a call allocates, KV pages and records; `kv_bytes_after_first_token`
what the children take once each has written. Through `--base-url` of a Dendrite server the fork's time is the
one it reports, other servers are asked for so many choices of a prompt that they have just computed. Doubt it
on a busy core: the 99th percentile is the neighbours', and one pass over a fresh cache can land on a bad
memory layout, so passes at all lengths are interleaved and `flatness`, longest over shortest, is taken of
medians.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

from benchmarks.measure.client import Server, connect
from benchmarks.measure.fresh import in_fresh_process
from benchmarks.measure.models import ModelChoice, add_model_arguments, choice_of, numbers, random_prompt
from benchmarks.measure.target import Asked
from benchmarks.record import emit, percentile
from dendrite_core import SamplingParams
from dendrite_core.cache.branch import Branch
from dendrite_core.cache.tree import TreeCache

PAGE_SIZE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, model="shape:llama-8m")
    parser.add_argument("--base-url", help="an OpenAI-compatible server, with /v1 (default: an engine)")
    lengths = [1_000, 8_000, 32_000, 128_000]
    parser.add_argument("--prefix-length", type=numbers, default=lengths, metavar="N,N,...")
    parser.add_argument("--num-forks", type=numbers, default=[1, 2, 4, 8, 16, 32], metavar="N,N,...")
    parser.add_argument("--trials", type=int, default=5, help="of first tokens, and passes of the flatness")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each length and number of forks."""
    settings: dict[str, Any] = {"trials": args.trials, "through": args.base_url or "engine"}
    if args.base_url:
        rows = asyncio.run(_through_server(args))
    else:
        rows = in_fresh_process(_in_cache, args.prefix_length, args.num_forks)
        asked = (args.prefix_length, args.num_forks, args.trials)
        first = in_fresh_process(_through_engine, choice_of(args), *asked)
        missing = {"first_token_after_fork_ms": None, "kv_bytes_after_first_token": None}
        rows = [row | first.get((row["prefix_length"], row["num_forks"]), missing) for row in rows]
        ends = (min(args.prefix_length), max(args.prefix_length))
        flat = in_fresh_process(compare_lengths, ends, 2_000, args.trials | 1)
        settings |= {"model": args.model, "page_size": PAGE_SIZE, **flat}
    emit("fork-overhead", settings, rows, save=args.save)
    return rows


# The cache alone.


def measure_fork(prefix_length: int, num_forks: int, calls: int = 2_000) -> dict[str, float]:
    """Time `calls` calls that each fork a branch of `prefix_length` tokens `num_forks` times.

    Keys: prefix_length, num_forks; fork_time_us, fork_p99_us of one call; memory_overhead_bytes of one call.
    The clock's own cost is part of the times.
    """
    cache, branch = _computed(prefix_length, room=2 * calls * num_forks)
    used = cache.pool.used
    times = _times(cache, branch, num_forks, calls)
    records = _record_bytes(cache, branch, num_forks)
    assert cache.pool.used == used, "a fork took a page"
    assert cache.stats().copies == 0, "a fork copied a page"
    return {
        "prefix_length": prefix_length,
        "num_forks": num_forks,
        "fork_time_us": percentile(times, 50) / 1000,
        "fork_p99_us": percentile(times, 99) / 1000,
        "memory_overhead_bytes": records,
    }


def compare_lengths(
    lengths: tuple[int, ...] = (1_000, 128_000), calls: int = 2_000, passes: int = 9
) -> dict[str, float]:
    """Median of a fork at each length, over interleaved passes, and the ratio of the last to the first."""
    seen: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(passes):
        for length in lengths:
            seen[length].append(measure_fork(length, 1, calls)["fork_time_us"])
    medians = {length: median(times) for length, times in seen.items()}
    result = {f"fork_time_us_at_{length}": found for length, found in medians.items()}
    return result | {"flatness": medians[lengths[-1]] / medians[lengths[0]]}


def _in_cache(lengths: list[int], counts: list[int]) -> list[dict[str, Any]]:
    return [dict(measure_fork(length, count)) for length in lengths for count in counts]


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


def _times(cache: TreeCache, branch: Branch, num_forks: int, calls: int) -> list[int]:
    """Nanoseconds of each call, as the engine makes it."""
    fork, fork_many, times = cache.fork, cache.fork_many, [0] * calls
    with _frozen():
        for index in range(calls):
            begin = perf_counter_ns()
            if num_forks == 1:
                fork(branch)
            else:
                fork_many(branch, num_forks)
            times[index] = perf_counter_ns() - begin
    return times


def _record_bytes(cache: TreeCache, branch: Branch, num_forks: int, calls: int = 50) -> float:
    """What one call allocates on Python's heap, tables that grow in jumps included."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(calls):
        cache.fork_many(branch, num_forks)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / calls


@contextmanager
def _frozen() -> Iterator[None]:
    """The collector as the engine keeps it: what exists is frozen, what is born is still collected."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# The whole engine.


def _through_engine(
    choice: ModelChoice, lengths: list[int], counts: list[int], trials: int
) -> dict[tuple[int, int], dict[str, float]]:
    """By length and number of forks: the time to the last first token, and the KV that the children took."""
    found = {}
    with choice.engine(num_pages=4096, max_branches=1 << 14) as engine:
        room = engine.config.max_model_len - 2
        for length in (length for length in lengths if length <= room):
            params = SamplingParams(temperature=1, max_tokens=1, ignore_eos=True)
            past = engine.generate(random_prompt(length, length), params)
            for count in counts:
                times, pages = [], []
                for _ in range(trials + 1):
                    used = engine.stats().result().pages_used
                    begin = perf_counter()
                    # The branch's own token is computed with the fork: children begin one token further.
                    children = engine.generate("", params, parent_id=past.branch_id, n=count)
                    times.append(perf_counter() - begin)
                    pages.append(engine.stats().result().pages_used - used)
                    for child in children.choices:
                        engine.release(child.branch_id).result()
                found[length, count] = {
                    "first_token_after_fork_ms": median(times[1:]) * 1e3,
                    "kv_bytes_after_first_token": median(pages[1:]) * engine.config.bytes_per_page,
                }
    return found


async def _through_server(args: argparse.Namespace) -> list[dict[str, Any]]:
    async with connect(args.base_url) as server:
        pairs = [(length, count) for length in args.prefix_length for count in args.num_forks]
        return [await _remote_row(server, length, count, args.trials) for length, count in pairs]


async def _remote_row(server: Server, length: int, count: int, trials: int) -> dict[str, Any]:
    times, forks = [], []
    for trial in range(trials + 1):
        prompt = random_prompt(1000 * trial + count, length)
        past = await server.complete(Asked(prompt, 1))
        parent = past.branch_ids[0]
        begin = perf_counter()
        reply = await server.complete(Asked([] if parent else prompt, 1, n=count, parent=parent))
        times.append(perf_counter() - begin)
        forks += [] if reply.fork_us is None else [reply.fork_us]
    return {
        "prefix_length": length,
        "num_forks": count,
        "fork_time_us": median(forks[1:]) if forks else None,
        "fork_p99_us": percentile(forks[1:], 99) if forks else None,
        "first_token_after_fork_ms": median(times[1:]) * 1e3,
    }
