"""What share of a decode step is the GPU idle? From a trace of the whole engine while n branches decode.

The trace records every kernel and copy; idle is what none of them covers, over the middle of the run. Tracing
itself slows the host, so `idle %` is an upper bound. `idle % untraced` sets what the trace says kernels take
against steps timed by their reader without it: host and device may differ there by a percent between runs.
`longest step ms` is of the untraced run, `collector ms` what Python's collector took in the traced one.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.engines import add_model, engine_for, exactly, random_prompt
from benchmarks.record import emit
from dendrite_core import Engine
from dendrite_core.engine.messages import Request

_STEPS = 48
_FROM, _TO = 0.25, 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--past", type=int, default=1024)
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 4, 16, 64, 256])


def run(args: argparse.Namespace) -> None:
    engine = engine_for(args.model, args.device)
    parent = engine.generate(random_prompt(engine, args.past, 3), exactly(1))
    branch = parent.started.prompt_branch_id
    rows = [_measure(engine, branch, n) for n in args.branches]
    engine.release(branch).result()
    emit("idle", {"model": args.model, "past": args.past, "steps": _STEPS}, rows, save=args.save)


def _measure(engine: Engine, branch: str, n: int) -> dict[str, Any]:
    _decode(engine, branch, n)
    untraced = _middle(_decode(engine, branch, n))
    with (
        profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced,
        collections() as collected,
    ):
        _decode(engine, branch, n)
        torch.cuda.synchronize()
    ranges = _on_device(traced)
    begin, end = ranges[0][0], ranges[-1][1]
    low, high = begin + _FROM * (end - begin), begin + _TO * (end - begin)
    busy, gaps = covered(ranges, low, high)
    step = (end - begin) / _STEPS / 1e3
    mean = sum(untraced) / len(untraced)
    return {
        "branches": n,
        "kernels": len(ranges),
        "ms a step": step,
        "idle %": 100 * (1 - busy / (high - low)),
        "longest gap us": max(gaps, default=0.0),
        "ms a step untraced": mean,
        "idle % untraced": 100 * (1 - step * busy / (high - low) / mean),
        "longest step ms": max(untraced),
        "collector ms": sum(collected),
    }


def _decode(engine: Engine, branch: str, n: int) -> list[float]:
    """When the news of each step came, in seconds."""
    request = Request(request_id="idle", prompt=(7,), params=exactly(_STEPS), n=n, parent_id=branch)
    return [time.perf_counter() for _ in engine.submit(request)]


def _middle(times: list[float]) -> list[float]:
    """Milliseconds between the news of a run's middle."""
    kept = times[int(_FROM * len(times)) : int(_TO * len(times))]
    return [(after - before) * 1e3 for before, after in pairwise(kept)]


@contextmanager
def collections() -> Iterator[list[float]]:
    """Milliseconds of every run of Python's collector, on whichever thread."""
    found: list[float] = []
    started = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            found.append((time.perf_counter() - started) * 1e3)

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def _on_device(traced: profile) -> list[tuple[float, float]]:
    """(start, end) in microseconds of everything that ran on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        traced.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    kinds = {"kernel", "gpu_memcpy", "gpu_memset"}
    return sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in kinds)


def covered(ranges: list[tuple[float, float]], low: float, high: float) -> tuple[float, list[float]]:
    """How much of [low, high] is covered by sorted ranges, which may overlap, and the gaps between them."""
    busy, gaps, reach = 0.0, [], low
    for start, end in ranges:
        start, end = max(start, reach), min(end, high)
        if end <= start:
            continue
        if start > reach:
            gaps.append(start - reach)
        busy += end - start
        reach = end
    return busy, gaps
