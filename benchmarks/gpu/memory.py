"""What memory do n branches of one past take, and does any stay behind when they are gone?

Pages are counted by the engine; `unshared` is what the same branches would take without a tree. `device`
figures are those of torch's allocator, before and after.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.gpu.engines import add_model, engine_for, exactly, random_prompt
from benchmarks.record import emit
from dendrite_core import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--past", type=int, default=8192)
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument(
        "--requests", type=int, default=300, help="short requests, to see whether memory grows"
    )


def run(args: argparse.Namespace) -> None:
    engine = engine_for(args.model, args.device)
    prompt = random_prompt(engine, args.past, 1)
    rows = [_measure(engine, prompt, n, args.tokens) for n in args.branches]
    before = _reserved()
    for seed in range(args.requests):
        done = engine.generate(random_prompt(engine, 40, seed), exactly(4, seed), n=4)
        engine.release(done.started.prompt_branch_id).result()
    settings = {
        "model": args.model,
        "past": args.past,
        "tokens": args.tokens,
        "bytes a page": engine._loop.runner.store.data.nbytes // engine.config.num_pages,
        "requests": args.requests,
        "device MiB reserved before them": before,
        "device MiB reserved after them": _reserved(),
        "pages left": engine.stats().result().pages_used,
    }
    emit("branch-memory", settings, rows, save=args.save)


def _measure(engine: Engine, prompt: list[int], n: int, tokens: int) -> dict[str, Any]:
    before = _held(engine)
    done = engine.generate(prompt, exactly(tokens, n), n=n)
    page = engine._loop.runner.store.data.nbytes / engine.config.num_pages / 2**20
    used, unshared = _held(engine) - before, n * -(-(len(prompt) + tokens) // engine.config.page_size)
    engine.release(done.started.prompt_branch_id).result()
    return {
        "branches": n,
        "pages": used,
        "MiB": used * page,
        "unshared MiB": unshared * page,
        "times less": unshared / used,
        "pages after release": _held(engine) - before,
    }


def _held(engine: Engine) -> int:
    """Pages in use that nothing could evict."""
    stats = engine.stats().result()
    return stats.pages_used - stats.pages_cached


def _reserved() -> float | None:
    return torch.cuda.memory_reserved() / 2**20 if torch.cuda.is_available() else None
