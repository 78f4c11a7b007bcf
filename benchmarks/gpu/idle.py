"""What share of a decode step is the GPU idle? From a trace of the whole engine while n branches decode.

The trace records every kernel and copy; idle is what none of them covers, over the middle of the run. Tracing
itself slows the host, so the figure is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.engines import add_model, engine_for, exactly, random_prompt
from benchmarks.record import emit
from dendrite_core import Engine

_STEPS = 48


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
    for _ in range(2):
        engine.generate([7], exactly(_STEPS), parent_id=branch, n=n)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
        engine.generate([7], exactly(_STEPS), parent_id=branch, n=n)
        torch.cuda.synchronize()
    ranges = _on_device(traced)
    begin, end = ranges[0][0], ranges[-1][1]
    low, high = begin + 0.25 * (end - begin), begin + 0.9 * (end - begin)
    busy, gaps = covered(ranges, low, high)
    return {
        "branches": n,
        "kernels": len(ranges),
        "ms a step": (end - begin) / _STEPS / 1e3,
        "idle %": 100 * (1 - busy / (high - low)),
        "longest gap us": max(gaps, default=0.0),
    }


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
