"""What searches solve at equal budgets of generated tokens, and what the tree saves them.

Held-out Games of 24 with the embedded model: greedy, best of n, beam, Tree of Thoughts and MCTS, each with
the same budget per puzzle, judgements included, and 95 % Wilson intervals; every answer is checked exactly.
Then the Tree of Thoughts again over plain requests, with a prefix cache and without: the same trees
(`same_trees`, but for a draw here and there that rounding turns) at other costs. Prompts are short here,
some 40 tokens, so there is little to save: see `tree-vs-linear` for longer ones. Doubt the rates for other
models: this one was made for this game and its judge is seldom wrong; widths and branchings were chosen by
trying a few on two dozen of the same puzzles.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from benchmarks.game24 import Messages, Puzzle, chosen_puzzles, explore, goal, judge, steps, thought
from benchmarks.measure.models import folder_of
from benchmarks.record import emit
from dendrite_core import Engine, SamplingParams
from dendrite_core.search import (
    Backend,
    BeamSearch,
    BestOf,
    Budget,
    EngineBackend,
    MonteCarlo,
    ResendingEngine,
    Result,
    Sample,
    Search,
    TokenCount,
    TreeOfThoughts,
)
from dendrite_core.search.methods.guided import Method

WHOLE = 96
DEPTH = 5
Contender = tuple[Callable[[Puzzle], Messages], Callable[[Puzzle], Method]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="embedded, a folder or a hub id")
    parser.add_argument("--puzzles", type=int, help="how many held-out puzzles (default: all 271)")
    parser.add_argument("--quick", action="store_true", help="24 puzzles, unless --puzzles says otherwise")
    parser.add_argument("--budget", type=int, default=800, help="generated tokens per puzzle")
    parser.add_argument("--together", type=int, default=16, help="puzzles searched at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rows of solve rates by method, and of costs of the same search by way of asking."""
    if args.quick and args.puzzles is None:
        args.puzzles = 24
    puzzles = chosen_puzzles(args.puzzles)
    with Engine.from_pretrained(
        folder_of(args.model), threads=args.threads, device=args.device, dtype="float32", num_pages=8192
    ) as engine:
        rates, costs = asyncio.run(_measure(engine, puzzles, args))
    names = ("model", "puzzles", "budget", "together", "seed", "threads")
    settings = {name: getattr(args, name) for name in names}
    save = getattr(args, "save", False)
    emit("tot", settings, rates, save=save)
    emit("tot-costs", settings, costs, save=save)
    return {"rates": rates, "costs": costs}


def contenders(budget: int) -> dict[str, Contender]:
    """The methods by name: how each asks, and how it searches."""
    whole = SamplingParams(max_tokens=WHOLE)
    greedy = Sample(SamplingParams(max_tokens=WHOLE, temperature=0.0))
    return {
        "greedy": (steps, lambda p: BestOf(generator=greedy, n=1, goal=goal(p))),
        "best-of-n": (steps, lambda p: BestOf(generator=Sample(whole), n=64, wave=4, goal=goal(p))),
        "beam": (steps, lambda p: BeamSearch(width=max(1, budget // 70), max_tokens=WHOLE, goal=goal(p))),
        "tot": (explore, tot),
        "mcts": (explore, mcts),
    }


def tot(puzzle: Puzzle) -> TreeOfThoughts:
    return TreeOfThoughts(generator=thought(), evaluator=judge(), goal=goal(puzzle), width=3, branching=8)


def mcts(puzzle: Puzzle) -> MonteCarlo:
    return MonteCarlo(
        generator=thought(),
        evaluator=judge(),
        goal=goal(puzzle),
        branching=4,
        wave=2,
        exploration=0.3,
        widening=1.5,
    )


async def _measure(
    engine: Engine, puzzles: Sequence[Puzzle], args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rates = []
    for name, (ask, method) in contenders(args.budget).items():
        begin = perf_counter()
        results = await _search_all(EngineBackend(engine), puzzles, ask, method, args)
        rates.append({"method": name, **_rate(results), **_means(results), "seconds": perf_counter() - begin})
    costs: list[dict[str, Any]] = []
    trees: list[list[list[str]]] = []
    for name, backend in _ways(engine).items():
        begin = perf_counter()
        results = await _search_all(backend, puzzles, explore, tot, args)
        if isinstance(backend, ResendingEngine):
            await backend.close()
        seconds = perf_counter() - begin
        trees.append([[view.text for view in result.tree] for result in results])
        same = sum(map(list.__eq__, trees[-1], trees[0])) / len(results)
        costs.append({"way": name, "seconds": seconds, **_sums(results), "same_trees": same})
    for row in costs:
        row["times_tree"] = row["computed"] / costs[0]["computed"]
    return rates, costs


def _ways(engine: Engine) -> dict[str, Backend]:
    return {
        "tree": EngineBackend(engine),
        "prefix_cache": ResendingEngine(engine, prefix_cache=True),
        "no_cache": ResendingEngine(engine, prefix_cache=False),
    }


async def _search_all(
    backend: Backend,
    puzzles: Sequence[Puzzle],
    ask: Callable[[Puzzle], Messages],
    method: Callable[[Puzzle], Method],
    args: argparse.Namespace,
) -> list[Result]:
    """Every puzzle's search, some at a time."""
    places = asyncio.Semaphore(args.together)
    budget = Budget(tokens=args.budget, depth=WHOLE if method not in (tot, mcts) else DEPTH)

    async def one(puzzle: Puzzle) -> Result:
        async with places:
            search = Search(backend, ask(puzzle), method(puzzle), budget=budget, seed=args.seed)
            return await search.run()

    return list(await asyncio.gather(*map(one, puzzles)))


def _rate(results: Sequence[Result]) -> dict[str, float]:
    """The share that is solved, with its Wilson 95 % interval."""
    z, n, hits = 1.96, len(results), sum(result.solved for result in results)
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"solved": p, "low": middle - half, "high": middle + half, "of": n}


def _means(results: Sequence[Result]) -> dict[str, float]:
    n, count = len(results), _sum(results)
    return {
        "generated_each": count.generated / n,
        "computed_each": count.computed / n,
        "nodes_each": sum(result.nodes for result in results) / n,
    }


def _sums(results: Sequence[Result]) -> dict[str, Any]:
    count = _sum(results)
    prefilled = count.prompt - count.cached
    return {
        "computed": count.computed,
        "prefilled": prefilled,
        "generated": count.generated,
        "requests": count.requests,
        "solved": sum(result.solved for result in results),
    }


def _sum(results: Sequence[Result]) -> TokenCount:
    return sum((result.count for result in results), TokenCount())
