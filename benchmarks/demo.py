"""The demo: what a fork costs, a Game of 24 searched live in the terminal, and the same without a tree.

The search is shown slowed down, so that it can be followed; the times that are compared are of the same
search run again, with nobody watching. `--record` writes what was shown as one animated SVG.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from rich.text import Text

from benchmarks.fork import measure_fork
from benchmarks.game24 import EMBEDDED, Puzzle, chosen_puzzles, explore, goal, judge, show, thought
from benchmarks.recording import Stage
from benchmarks.watching import Growing
from dendrite_core import Engine, SamplingParams
from dendrite_core.search import (
    Backend,
    Budget,
    EngineBackend,
    ResendingEngine,
    Result,
    Search,
    Tree,
    TreeOfThoughts,
)

PREFIXES = (1_000, 8_000, 32_000, 128_000)
BUDGET = Budget(tokens=1500, depth=5)
ROOT, DEPTH, WIDTH, THOUGHT = 512, 3, 4, 16
PACE = 0.55
TURNS = 3
TITLE = "scripts/demo"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--puzzle", help='four numbers, as "4 5 6 10" (default: one the model never saw)')
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write an animated SVG")
    args = parser.parse_args()
    puzzle = _puzzle(args.puzzle)
    stage = Stage()
    show_forks(stage)
    with Engine.from_pretrained(str(EMBEDDED)) as engine:
        asyncio.run(_show_searches(stage, engine, puzzle, args))
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(stage.animation(TITLE))


def _puzzle(text: str | None) -> Puzzle:
    if text is None:
        return chosen_puzzles(None)[137]
    numbers = [int(word) for word in text.replace(",", " ").split()]
    if len(numbers) != 4:
        raise SystemExit("a puzzle is four whole numbers")
    return (numbers[0], numbers[1], numbers[2], numbers[3])


async def _show_searches(stage: Stage, engine: Engine, puzzle: Puzzle, args: argparse.Namespace) -> None:
    # The first step of an engine builds and loads what it needs; no search is to pay for that.
    await engine.agenerate("Hello", SamplingParams(max_tokens=4, seed=1))
    pace = PACE if stage.is_watched or args.record else 0.0
    await show_search(stage, engine, puzzle, args.seed, pace)
    await show_same_search(stage, engine, puzzle, args.seed)
    await show_full_tree(stage, engine, args.seed)


def _heading(text: str, remark: str) -> Text:
    return Text.assemble((text, "bold bright_blue"), (f"  {remark}", "bright_black"))


def show_forks(stage: Stage) -> None:
    """A fork takes the same time whatever the length of the past."""
    stage.say(_heading("Forking a branch", "median of 2,000 forks; nothing is copied"))
    for length in PREFIXES:
        found = measure_fork(length, 1, 2_000)
        line = Text(f"  {length:>7,} tokens of past  ")
        line.append(f"{found['fork_time_us']:5.2f} us  ", "bold green")
        line.append("▇" * round(20 * found["fork_time_us"]), "green")
        stage.say(line)


def _search(backend: Backend, puzzle: Puzzle, seed: int) -> Search:
    method = TreeOfThoughts(generator=thought(), evaluator=judge(), goal=goal(puzzle), width=3, branching=8)
    return Search(backend, explore(puzzle), method, budget=BUDGET, seed=seed)


async def show_search(stage: Stage, engine: Engine, puzzle: Puzzle, seed: int, pace: float) -> None:
    """A Tree of Thoughts, step by step."""
    stage.say(
        "", _heading(f"Game of 24: {show(puzzle)}", "8 thoughts a step, the model judges each, 3 go on")
    )
    growing = Growing(show(puzzle))
    search = _search(EngineBackend(engine), puzzle, seed)
    async for event in search:
        growing.hear(event)
        stage.change(growing.drawn())
        await asyncio.sleep(pace)
    stage.settle(growing.drawn())
    assert search.result is not None
    if search.result.solved:
        steps = search.result.text.strip().splitlines()
        stage.say(Text("  " + "  →  ".join(step.partition(" (")[0] for step in steps), "bold green"))
    else:
        stage.say(Text(f"  not solved: {search.result.reason}; try another --seed", "red"))


def _ways(engine: Engine) -> dict[str, Backend]:
    return {
        "on the tree": EngineBackend(engine),
        "with a prefix cache": ResendingEngine(engine, prefix_cache=True),
        "everything sent again": ResendingEngine(engine, prefix_cache=False),
    }


@dataclass
class Cost:
    """What one way took: its best time and its tokens."""

    seconds: float
    computed: int
    texts: list[str]


async def show_same_search(stage: Stage, engine: Engine, puzzle: Puzzle, seed: int) -> None:
    """The search again in three ways, unwatched."""
    stage.say("", _heading("The same search, the same seed", f"best of {TURNS} runs, nobody watching"))
    costs: dict[str, Cost] = {}
    for _ in range(TURNS):
        for name, backend in _ways(engine).items():
            result: Result = await _search(backend, puzzle, seed).run()
            if isinstance(backend, ResendingEngine):
                await backend.close()
            _note(costs, name, result.seconds, result.count.computed, [view.text for view in result.tree])
    _compare(stage, costs, "thoughts")


async def show_full_tree(stage: Stage, engine: Engine, seed: int) -> None:
    """Where prompts are longer there is more to save."""
    branches = sum(WIDTH**level for level in range(1, DEPTH + 1))
    remark = f"{branches} thoughts of {THOUGHT} tokens, all of {WIDTH} ways {DEPTH} deep"
    stage.say("", _heading(f"A prompt of {ROOT} tokens", remark))
    rng = random.Random(seed)
    prompt = [rng.randrange(3, engine.config.vocab_size) for _ in range(ROOT)]
    costs: dict[str, Cost] = {}
    # Batches of a size not seen before cost more; nobody is to pay for that.
    await _grow_whole(EngineBackend(engine), prompt, seed)
    for name, backend in _ways(engine).items():
        begin = perf_counter()
        tree = await _grow_whole(backend, prompt, seed)
        seconds = perf_counter() - begin
        if isinstance(backend, ResendingEngine):
            await backend.close()
        _note(costs, name, seconds, tree.count.computed, [branch.text for branch in tree.branches])
    _compare(stage, costs, "texts")


async def _grow_whole(backend: Backend, prompt: list[int], seed: int) -> Tree:
    async with Tree(backend, prompt, seed=seed) as tree:
        level = [tree.root]
        for _ in range(DEPTH):
            grown = await tree.extend(level, WIDTH, max_tokens=THOUGHT, min_tokens=THOUGHT)
            level = [child for children in grown for child in children]
    return tree


def _note(costs: dict[str, Cost], name: str, seconds: float, computed: int, texts: list[str]) -> None:
    best = min(seconds, costs[name].seconds) if name in costs else seconds
    costs[name] = Cost(best, computed, texts)


def _compare(stage: Stage, costs: dict[str, Cost], what: str) -> None:
    first, most = next(iter(costs.values())), max(cost.computed for cost in costs.values())
    for name, cost in costs.items():
        style = "green" if cost is first else "yellow"
        line = Text(f"  {name:<23}")
        line.append(f"{'▇' * max(1, round(16 * cost.computed / most)):<17}", style)
        line.append(f"{cost.computed:>6,} tokens computed {cost.seconds:6.2f} s  ")
        line.append("" if cost is first else f"{cost.seconds / first.seconds:.1f} x", style)
        stage.say(line)
    same = all(cost.texts == first.texts for cost in costs.values())
    told = f"the same {what} in all three" if same else f"rounding turned a draw: not all {what} are the same"
    stage.say(Text(f"  {told}", "bright_black"))


if __name__ == "__main__":
    main()
