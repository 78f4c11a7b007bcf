# mypy: disable-error-code="no-untyped-call"
"""Time on the device: of single steps by events, of short kernels by replays of a graph of many."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.record import percentile


def seconds(step: Callable[[], object], repeats: int) -> float:
    """Median seconds on the device of one step, after two to warm up."""
    return percentile([_once(step) for _ in range(repeats)][2:], 50)


def graph_micros(step: Callable[[int], object], count: int, replays: int) -> float:
    """Median microseconds of one step, `count` of them in a graph, which are told apart by their number."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        step(0)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for index in range(count):
                step(index)
        return seconds(graph.replay, replays) * 1e6 / count


def _once(step: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
