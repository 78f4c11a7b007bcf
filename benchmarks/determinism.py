"""Do an answer's bits depend on what else the server does, and what does it cost that they do not?

The same prompts, seeds and lengths: each alone in an engine where nothing is cached, then all at once, twice
over, so that prompts are found in the cache and branches share steps. Counted are choices whose tokens
differ, and choices of which any logprob differs in any bit. Speeds are of the crowd and of one stream.
Doubt the counts of the ordinary mode: they depend on the machine's kernels, and luck.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.record import emit
from dendrite_core import Completion, Engine, SamplingParams

EMBEDDED = Path(__file__).parent.parent / "dendrite_core" / "embedded"
CHOICES = 4

Bits = tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=str(EMBEDDED), help="folder or hub id")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--output-length", type=int, default=48)


def run(args: argparse.Namespace) -> None:
    """Print how many choices differ and how fast it was, without and with the mode."""
    params = SamplingParams(seed=24, max_tokens=args.output_length, ignore_eos=True, logprobs=3)
    rows = [measure(args.model, args.prompts, params, deterministic) for deterministic in (False, True)]
    settings = {"model": Path(args.model).name, "prompts": args.prompts, "choices": CHOICES * args.prompts}
    emit("determinism", {**settings, "output_length": args.output_length}, rows, save=args.save)


def measure(model: str, count: int, params: SamplingParams, deterministic: bool) -> dict[str, Any]:
    """One mode: choices that differ in tokens and in bits, tokens per second of a crowd and of one stream."""
    alone: list[list[Bits]] = []
    with Engine.from_pretrained(model, deterministic=deterministic) as engine:
        prompts = [_prompt(engine, number) for number in range(count)]
        started = perf_counter()
        stream = engine.generate(prompts[0], params)
        single = len(stream.choices[0].token_ids) / (perf_counter() - started)
    for prompt in prompts:
        with Engine.from_pretrained(model, deterministic=deterministic) as engine:
            alone.append(_bits(engine.generate(prompt, params, n=CHOICES)))
    with Engine.from_pretrained(model, deterministic=deterministic) as engine:
        started = perf_counter()
        crowds = [asyncio.run(_together(engine, prompts, params)) for _ in range(2)]
        seconds = perf_counter() - started
    pairs = [
        (one, other)
        for crowd in crowds
        for here, there in zip(alone, crowd, strict=True)
        for one, other in zip(here, there, strict=True)
    ]
    return {
        "mode": "deterministic" if deterministic else "ordinary",
        "compared": len(pairs),
        "tokens_differ": sum(one[0] != other[0] for one, other in pairs),
        "bits_differ": sum(one != other for one, other in pairs),
        "crowd_tok_s": len(pairs) * (params.max_tokens or 0) / seconds,
        "stream_tok_s": single,
    }


def _prompt(engine: Engine, number: int) -> list[int]:
    """Half of a prompt is what all prompts begin with; lengths are anything up to 400 tokens."""
    rng = random.Random(number)
    words = [f"{rng.randint(1, 13)} {rng.choice('+-*/')}" for _ in range(rng.randint(5, 90))]
    return engine.tokenizer.encode("Explore 24: 4 9 10 13. " * 8 + " ".join(words))


async def _together(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[list[Bits]]:
    found = await asyncio.gather(*(engine.agenerate(prompt, params, n=CHOICES) for prompt in prompts))
    return [_bits(completion) for completion in found]


def _bits(completion: Completion) -> list[Bits]:
    return [
        (tuple(choice.token_ids), tuple((e.logprob, *(p for _, p in e.top)) for e in choice.logprobs or ()))
        for choice in completion.choices
    ]
