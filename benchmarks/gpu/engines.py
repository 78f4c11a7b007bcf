"""One engine for a whole process of benchmarks, with random weights and random prompts."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from functools import cache

import torch

from dendrite_core import Engine, SamplingParams
from dendrite_core.engine.completion import Completion


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="shape:llama-3.1-8b", help="a folder, a hub id or shape:NAME")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


@cache
def engine_for(model: str, device: str | None) -> Engine:
    """Room for 1,024 rows, as a full tree has on its last level."""
    on_gpu = (device or ("cuda" if torch.cuda.is_available() else "cpu")) != "cpu"
    return Engine.from_pretrained(model, device=device, max_rows=1024, num_pages=12_000 if on_gpu else 4_000)


def random_prompt(engine: Engine, tokens: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, engine.config.vocab_size) for _ in range(tokens)]


def exactly(tokens: int, seed: int = 0) -> SamplingParams:
    """So many tokens at temperature 1, whatever they are."""
    return SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, seed=seed)


async def extend(
    engine: Engine, parents: Sequence[str], params: SamplingParams, n: int, prompt: Sequence[int] = ()
) -> list[Completion]:
    """Every parent goes on `n` times, all at once."""
    grown = (engine.agenerate(list(prompt), params, parent_id=parent, n=n) for parent in parents)
    return list(await asyncio.gather(*grown))


def calibration() -> float:
    """Seconds for two million additions: how fast this CPU runs Python right now."""
    started, total = time.perf_counter(), 0
    for number in range(2_000_000):
        total += number
    return time.perf_counter() - started
