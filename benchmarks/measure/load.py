"""Two ways to load a target: streams that each wait for their answer, or arrivals that wait for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any

from benchmarks.measure.target import Asked, Target
from benchmarks.measure.timeline import Timeline, latencies

Make = Callable[[int], Asked]
"""The request of a number; every number is a new one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a load: one timeline an answer, and how long all of it took."""

    timelines: list[Timeline]
    seconds: float

    def figures(self) -> dict[str, Any]:
        """Keys requests_s, tokens_s and those of `latencies`."""
        tokens = sum(timeline.tokens for timeline in self.timelines)
        rates = {"requests_s": len(self.timelines) / self.seconds, "tokens_s": tokens / self.seconds}
        return {**rates, **latencies(self.timelines)}


async def closed_loop(target: Target, make: Make, streams: int, each: int) -> Loaded:
    """`streams` callers that send `each` requests one after the other."""

    async def caller(number: int) -> list[Timeline]:
        answers: list[Timeline] = []
        for turn in range(each):
            answers += await target.stream(make(number * each + turn))
        return answers

    begin = perf_counter()
    answers = await asyncio.gather(*map(caller, range(streams)))
    return Loaded([timeline for one in answers for timeline in one], perf_counter() - begin)


async def open_loop(target: Target, make: Make, rate: float, count: int, seed: int = 0) -> Loaded:
    """`count` requests that arrive at random (Poisson), `rate` a second, however many are still open.

    A request counts as sent when it was due, so that a late sender's delay is part of its latency.
    """
    rng = Random(seed)
    begin = due = perf_counter()
    running = []

    async def one(number: int, due: float) -> list[Timeline]:
        answers = await target.stream(make(number))
        for timeline in answers:
            timeline.sent = due
        return answers

    for number in range(count):
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - perf_counter()))
        running.append(asyncio.create_task(one(number, due)))
    answers = await asyncio.gather(*running)
    return Loaded([timeline for one in answers for timeline in one], perf_counter() - begin)
