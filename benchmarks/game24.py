"""The Game of 24 as searches see it: the embedded model's prompts, an exact check, the judge, the puzzles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from dendrite_core import SamplingParams
from dendrite_core.search import Branch, Judge, Sample, Template

ROOT = Path(__file__).parent.parent
EMBEDDED = ROOT / "dendrite_core" / "embedded"

# The rules live beside the training they were made for, which is no installed package.
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from scripts.train_embedded import prompts  # noqa: E402
from scripts.train_embedded.game24 import (  # noqa: E402
    Puzzle,
    held_out_puzzles,
    is_legal,
    parse_step,
    show,
    solves,
    state_of,
)

__all__ = [
    "EMBEDDED",
    "Puzzle",
    "chosen_puzzles",
    "explore",
    "goal",
    "judge",
    "prompts",
    "show",
    "solves",
    "steps",
    "thought",
]

Messages = tuple[dict[str, str], ...]

# The numbers that are left: those of the last step, or the puzzle's.
_LEFT = r"(?:left|24): (?P<left>[\d /]+)"


def chosen_puzzles(count: int | None) -> list[Puzzle]:
    """Solvable puzzles that no training text held; `count` of them, spread over all."""
    puzzles = held_out_puzzles()
    return puzzles if count is None else puzzles[:: max(1, len(puzzles) // count)][:count]


def explore(puzzle: Puzzle) -> Messages:
    """Asks for steps that need not be good ones: thoughts to choose from."""
    return ({"role": "user", "content": prompts.explore(puzzle)},)


def steps(puzzle: Puzzle) -> Messages:
    """Asks for a solution, step by step."""
    return ({"role": "user", "content": prompts.steps(puzzle)},)


def thought(temperature: float = 1.0) -> Sample:
    """One step: one line."""
    return Sample(SamplingParams(max_tokens=32, temperature=temperature, stop=("\n",)))


def judge() -> Judge:
    """The model's own opinion of the numbers that are left."""
    return Judge(
        prompt=Template(prompts.judge(()) + "{left}", _LEFT),
        labels={"sure": 1.0, "likely": 0.7, "impossible": 0.0},
        params=SamplingParams(max_tokens=4, temperature=0.0),
    )


def goal(puzzle: Puzzle) -> Callable[[Branch], bool]:
    """Legal steps down to 24, or an answer that makes it; exact arithmetic."""

    def is_solved(branch: Branch) -> bool:
        lines = branch.path_text.strip().split("\n")
        return solves(lines[-1], puzzle) or _reaches_24(lines, puzzle)

    return is_solved


def _reaches_24(lines: list[str], puzzle: Puzzle) -> bool:
    state = state_of(puzzle)
    for line in lines:
        step = parse_step(line)
        if step is None or not is_legal(step, state):
            return False
        state = step.left
    return state == state_of((24,))
