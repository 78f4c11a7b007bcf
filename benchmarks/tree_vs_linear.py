"""How much faster is a whole tree of thoughts on forks than with every branch's past computed again?

The full tree of a depth and branching, thoughts of fixed length below one root prompt, the same seeds, every
branch a request of its own, a level in flight at once: by forking, over plain requests with a prefix cache,
and without any cache. The outputs must be the same, token for token. Doubt it where the model is tiny: what
is saved is prefill, so the ratio grows with the root and falls with longer thoughts.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.record import emit
from dendrite_core import Engine, SamplingParams
from dendrite_core.search import Backend, EngineBackend, ResendingEngine, Tree

EMBEDDED = Path(__file__).parent.parent / "dendrite_core" / "embedded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=str(EMBEDDED), help="a folder or hub id")
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--branching", type=int, default=4)
    parser.add_argument("--thought", type=int, default=16, help="tokens per thought")
    parser.add_argument("--root", type=int, default=512, help="tokens of the root prompt")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Grow the tree in each way, `rounds` times in turns; rows by way, and the ratios to the tree."""
    with Engine.from_pretrained(
        args.model, threads=args.threads, dtype=args.dtype, device=args.device, num_pages=_pages(args)
    ) as engine:
        rows = asyncio.run(_measure(engine, args))
    settings = {
        name: getattr(args, name)
        for name in ("model", "depth", "branching", "thought", "root", "rounds", "threads")
    }
    emit("tree-vs-linear", settings, rows, save=getattr(args, "save", False))
    return {"rows": rows, **{f"speedup_over_{row['way']}": row["times_slower"] for row in rows[1:]}}


def _pages(args: argparse.Namespace) -> int:
    """Room for every leaf as a request of its own, as plain requests need while a level runs."""
    leaves = args.branching**args.depth
    longest = args.root + args.depth * args.thought
    return int(min(leaves, 300) * -(-longest // 16) * 1.2) + 64


async def _measure(engine: Engine, args: argparse.Namespace) -> list[dict[str, Any]]:
    rng = random.Random(0)
    prompt = [rng.randrange(3, engine.config.vocab_size) for _ in range(args.root)]
    seconds: dict[str, list[float]] = {}
    counts, texts = {}, {}
    for _ in range(args.rounds):
        for way, backend in _ways(engine).items():
            begin = perf_counter()
            tree = await _grow(backend, prompt, args)
            seconds.setdefault(way, []).append(perf_counter() - begin)
            counts[way], texts[way] = tree.count, [branch.token_ids for branch in tree.branches]
            await tree.close()
            if isinstance(backend, ResendingEngine):
                await backend.close()
    fastest = median(seconds["tree"])
    return [
        {
            "way": way,
            "seconds": median(times),
            "times_slower": median(times) / fastest,
            "tokens_computed": counts[way].computed,
            "tokens_generated": counts[way].generated,
            "requests": counts[way].requests,
            "same_branches": _share_equal(texts[way], texts["tree"]),
        }
        for way, times in seconds.items()
    ]


def _ways(engine: Engine) -> dict[str, Backend]:
    return {
        "tree": EngineBackend(engine),
        "prefix_cache": ResendingEngine(engine, prefix_cache=True),
        "no_cache": ResendingEngine(engine, prefix_cache=False),
    }


async def _grow(backend: Backend, prompt: list[int], args: argparse.Namespace) -> Tree:
    """The full tree, a level at a time."""
    # End tokens are banned, not ignored: a text that goes on drops the one it would have ended with.
    params = SamplingParams(max_tokens=args.thought, min_tokens=args.thought)
    tree = Tree(backend, prompt, seed=1)
    level = [tree.root]
    for _ in range(args.depth):
        # Every branch is a request of its own, here as there: n choices of one request would share a prefill.
        alone = [branch for branch in level for _ in range(args.branching)]
        grown = await tree.extend(alone, 1, params=params)
        level = [child for children in grown for child in children]
    return tree


def _share_equal(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> float:
    """Less than 1 only where rounding has turned a draw: the subtree below it then goes its own way."""
    return sum(map(tuple.__eq__, found, wanted)) / len(wanted)
