"""What is gained by launching a step before the last one's tokens are read? The whole engine, both ways.

One stream and many branches of one past through `Engine.submit`: scheduler, runner, sampler, detokenizer, the
hop to a reading thread. Checked first: tokens must be the same either way. `cpu us` is the engine
thread's time in a step without its waiting for tokens; `idle` the share of the middle of a traced run in
which no kernel and no copy runs. Why you should doubt this: no HTTP; random weights; tracing slows the host.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.engines import calibration
from benchmarks.record import emit, percentile
from dendrite_core import Engine, SamplingParams
from dendrite_core.engine.messages import Request
from dendrite_core.sampling.transfers import Download

Workload = tuple[int, int, int]
"""(tokens of the prompt, branches, tokens of each)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="shape:llama-3.1-8b", help="a folder, a hub id or shape:NAME")
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 4096], help="of a single stream")
    parser.add_argument("--pasts", type=int, nargs="+", default=[1024, 8192], help="of many branches")
    parser.add_argument("--branches", type=int, nargs="+", default=[64])
    parser.add_argument("--tokens", type=int, default=256, help="of a single stream; branches get half")


def run(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    engine = Engine.from_pretrained(args.model)
    ready = time.perf_counter() - started
    workloads: list[Workload] = [(prompt, 1, args.tokens) for prompt in args.prompts]
    workloads += [(past, n, args.tokens // 2) for past in args.pasts for n in args.branches]
    with engine:
        checked = _check(engine)
        rows = [_measure(engine, work, overlap) for work in workloads for overlap in (False, True)]
    settings = {
        "model": args.model,
        "seconds to ready": ready,
        "tokens checked": checked,
        "cpu seconds for 2M additions": calibration(),
    }
    emit("overlap", settings, rows, save=args.save)


def _check(engine: Engine) -> int:
    """How many tokens of a few branches were drawn, the same ones both ways.

    One request at a time, and nothing kept of it: where a branch joins pages of an earlier one, attention is
    planned anew, a step later when steps overlap, and how it is cut shows in the last bits of a sum.
    """
    found: list[list[int]] = []
    for overlap in (False, True):
        engine._loop.overlap = overlap
        found.append([])
        for temperature, n in ((0.0, 1), (1.0, 1), (1.0, 5)):
            params = SamplingParams(temperature=temperature, max_tokens=96, ignore_eos=True, seed=3)
            made = engine.generate(_prompt(engine, 200, n), params, n=n)
            found[-1] += [token for choice in made.choices for token in choice.token_ids]
            engine.release(made.started.prompt_branch_id).result()
    assert found[0] == found[1], "tokens depend on whether steps overlap"
    return len(found[0])


def _prompt(engine: Engine, tokens: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, engine.config.vocab_size) for _ in range(tokens))


def _measure(engine: Engine, work: Workload, overlap: bool) -> dict[str, Any]:
    engine._loop.overlap = overlap
    prompt, n, tokens = work
    params = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, seed=1)
    request = Request(request_id="r", prompt=_prompt(engine, prompt, prompt), params=params, n=n)
    _decode(engine, request)
    before = engine.stats().result()
    with _Waits() as waits:
        times = _decode(engine, request)
    after = engine.stats().result()
    steps = [after - before for before, after in pairwise(times[4:])]
    mean = (times[-1] - times[4]) / (len(times) - 5)
    return {
        "prompt": prompt,
        "branches": n,
        "overlap": overlap,
        "tokens/s": n / mean,
        "mean ms": mean * 1e3,
        "p50 ms": percentile(steps, 50) * 1e3,
        "p99 ms": percentile(steps, 99) * 1e3,
        "cpu us": (times[-1] - times[0] - waits.seconds) / (len(times) - 1) * 1e6,
        "ahead": (after.steps_ahead - before.steps_ahead) / (after.steps - before.steps),
        "idle": _idle(engine, request) if torch.cuda.is_available() else None,
    }


def _decode(engine: Engine, request: Request) -> list[float]:
    """When the news of each step came."""
    return [time.perf_counter() for _ in engine.submit(request)]


class _Waits:
    """Adds up how long the engine's thread waits for what comes from the device."""

    seconds = 0.0

    def __enter__(self) -> _Waits:
        self._read = read = Download.read

        def timed(download: Download) -> list[torch.Tensor]:
            started = time.perf_counter()
            found = read(download)
            self.seconds += time.perf_counter() - started
            return found

        setattr(Download, "read", timed)  # noqa: B010
        return self

    def __exit__(self, *_: object) -> None:
        setattr(Download, "read", self._read)  # noqa: B010


def _idle(engine: Engine, request: Request) -> float:
    few = replace(request, params=replace(request.params, max_tokens=48))
    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        _decode(engine, few)
        torch.cuda.synchronize()
    events = [event.time_range for event in traced.events() or () if "CUDA" in str(event.device_type)]
    ranges = sorted((event.start, event.end) for event in events)
    begin, end = ranges[0][0], ranges[-1][1]
    low, high = begin + 0.5 * (end - begin), begin + 0.95 * (end - begin)
    busy, reach = 0.0, low
    for first, last in ranges:
        busy += max(0.0, min(last, high) - max(first, reach))
        reach = max(reach, last)
        if reach >= high:
            break
    return float(1.0 - busy / (high - low))
