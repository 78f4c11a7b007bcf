"""How fast do many branches of one past go on, and how soon does a fork have its first token?

Through the whole engine, HTTP not included. `wide`: one request of n branches of a cached past, 64 tokens
each. `forks`: n requests at once, each with a parent of a cached past and one new token of its own; the time
until the last of them has its first token.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from benchmarks.gpu.engines import add_model, calibration, engine_for, exactly, random_prompt
from benchmarks.record import emit, percentile
from dendrite_core import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--pasts", type=int, nargs="+", default=[1024, 8192, 32768])
    parser.add_argument("--branches", type=int, nargs="*", default=[1, 16, 64, 256])
    parser.add_argument("--forks", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)


def run(args: argparse.Namespace) -> None:
    engine = engine_for(args.model, args.device)
    rows: list[dict[str, Any]] = []
    for past in args.pasts:
        parent = engine.generate(random_prompt(engine, past, past), exactly(1))
        branch = parent.started.prompt_branch_id
        rows += [_forks(engine, branch, past, n, args.rounds) for n in args.forks]
        rows += [_wide(engine, branch, past, n, args.tokens) for n in args.branches]
        engine.release(branch).result()
    settings = {
        "model": args.model,
        "tokens": args.tokens,
        "cpu seconds for 2M additions": min(calibration() for _ in range(3)),
    }
    emit("wide", settings, rows, save=args.save)


def _wide(engine: Engine, branch: str, past: int, n: int, tokens: int) -> dict[str, Any]:
    """Milliseconds a step: the second of two runs less what one token takes."""
    times = {}
    for count in (tokens, 1, tokens):
        started = time.perf_counter()
        done = engine.generate([7], exactly(count, n), parent_id=branch, n=n)
        times[count] = time.perf_counter() - started
        assert all(len(choice.token_ids) == count for choice in done.choices)
        engine.release(done.started.prompt_branch_id).result()
    step = (times[tokens] - times[1]) / (tokens - 1)
    return {
        "what": "wide",
        "past": past,
        "branches": n,
        "ms": step * 1e3,
        "first token ms": times[1] * 1e3,
        "tokens/s": n / step,
    }


def _forks(engine: Engine, branch: str, past: int, n: int, rounds: int) -> dict[str, Any]:
    times = asyncio.run(first_token_times(engine, branch, n, rounds))
    return {
        "what": "forks",
        "past": past,
        "branches": n,
        "ms": percentile(times[2:], 50) * 1e3,
        "first token ms": percentile(times[2:], 50) * 1e3,
        "tokens/s": None,
    }


async def first_token_times(engine: Engine, branch: str, n: int, rounds: int) -> list[float]:
    """Seconds from asking to the last first token, round by round, in a loop that runs as a server's does."""
    times: list[float] = []
    for number in range(rounds):
        params = exactly(1, number)
        started = time.perf_counter()
        asked = (engine.agenerate([3 + row], params, parent_id=branch) for row in range(n))
        grown = await asyncio.gather(*asked)
        times.append(time.perf_counter() - started)
        for done in grown:
            await asyncio.wrap_future(engine.release(done.started.prompt_branch_id))
    return times
