"""The loads on a target whose times are known."""

from __future__ import annotations

import asyncio
from time import perf_counter

import pytest

from benchmarks.measure.load import Loaded, closed_loop, open_loop
from benchmarks.measure.target import Asked
from benchmarks.measure.timeline import Timeline


class Waiting:
    """Answers after 10 ms with as many tokens as were asked for, and counts who is in."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.seeds: list[int | None] = []

    async def stream(self, asked: Asked) -> list[Timeline]:
        self.seeds.append(asked.seed)
        self.inside += 1
        self.most = max(self.most, self.inside)
        timeline = Timeline(perf_counter())
        await asyncio.sleep(0.01)
        timeline.add(perf_counter(), asked.new)
        self.inside -= 1
        return [timeline]


def request(number: int) -> Asked:
    return Asked([number], 5, seed=number)


async def test_a_closed_loop_keeps_each_stream_at_one_request() -> None:
    target = Waiting()
    loaded = await closed_loop(target, request, streams=4, each=3)
    assert target.most == 4
    assert sorted(seed for seed in target.seeds if seed is not None) == list(range(12))
    assert len(loaded.timelines) == 12
    assert loaded.seconds >= 0.03


async def test_an_open_loop_waits_for_nobody_and_counts_from_when_a_request_was_due() -> None:
    target = Waiting()
    loaded = await open_loop(target, request, rate=2000, count=40)
    assert target.most > 10
    sent = [timeline.sent for timeline in loaded.timelines]
    assert sent == sorted(sent)
    assert (sent[-1] - sent[0]) == pytest.approx(39 / 2000, rel=0.6)


def test_figures_are_rates_over_the_whole_time() -> None:
    timelines = [Timeline(0.0, [1.0], 8), Timeline(1.0, [2.5], 8)]
    figures = Loaded(timelines, 4.0).figures()
    assert figures["requests_s"] == 0.5
    assert figures["tokens_s"] == 4.0
    assert figures["ttft_p99_ms"] == pytest.approx(1500)
