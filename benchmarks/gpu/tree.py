"""How long does a full tree take, every node so many tokens, a level in flight at once?

Through the whole engine: scheduler, sampling and detokenizing included, HTTP not. The root prompt is new in
every round, so its prefill counts. The first round, in which kernels are compiled, does not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from typing import Any

from benchmarks.gpu.engines import add_model, engine_for, exactly, extend, random_prompt
from benchmarks.record import emit, percentile
from dendrite_core import Engine

# (depth, branching, tokens of the root, tokens of a node)
_TREES = ((5, 4, 1024, 32), (3, 4, 8192, 32))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--trees", type=int, nargs="+", default=[number for tree in _TREES for number in tree]
    )


def run(args: argparse.Namespace) -> None:
    engine = engine_for(args.model, args.device)
    trees = [tuple(args.trees[at : at + 4]) for at in range(0, len(args.trees), 4)]
    rows = [_measure(engine, *tree, rounds=args.rounds) for tree in trees]
    emit("tree", {"model": args.model, "rounds": args.rounds}, rows, save=args.save)


def _measure(
    engine: Engine, depth: int, branching: int, root: int, node: int, *, rounds: int
) -> dict[str, Any]:
    found = [asyncio.run(_grow(engine, depth, branching, root, node, seed)) for seed in range(rounds + 1)]
    seconds, levels = zip(*found[1:], strict=True)
    nodes = sum(branching**level for level in range(1, depth + 1))
    return {
        "tree": f"{depth} levels of {branching}, root {root}",
        "nodes": nodes,
        "seconds": percentile(seconds, 50),
        "best": min(seconds),
        "prefill and level 1": percentile([each[0] for each in levels], 50),
        "last level": percentile([each[-1] for each in levels], 50),
        "tokens/s": nodes * node / percentile(seconds, 50),
    }


async def _grow(
    engine: Engine, depth: int, branching: int, root: int, node: int, seed: int
) -> tuple[float, list[float]]:
    """Seconds of the whole tree and of each level; every node is checked to have its tokens."""
    params, prompt = exactly(node, seed), random_prompt(engine, root, seed)
    times = [time.perf_counter()]
    grown = [await engine.agenerate(prompt, params, n=branching)]
    first = grown[0].started.prompt_branch_id
    times.append(time.perf_counter())
    for _ in range(depth - 1):
        grown = await extend(engine, [c.branch_id for done in grown for c in done.choices], params, branching)
        times.append(time.perf_counter())
    assert all(len(c.token_ids) == node for done in grown for c in done.choices), "a node fell short"
    assert len(grown) * branching == branching**depth
    engine.release(first).result()
    return times[-1] - times[0], [end - begin for begin, end in itertools.pairwise(times)]
