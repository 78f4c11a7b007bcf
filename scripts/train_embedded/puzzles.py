"""Training turns of the Game of 24: solve, steps, explore, propose, judge, check.

Every four-number puzzle comes from `training_puzzles()`; states of two or three numbers come from walks that
start there and from triples drawn without looking at any puzzle.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from random import Random
from typing import Any

from scripts.train_embedded import prompts
from scripts.train_embedded.game24 import (
    IMPOSSIBLE,
    LARGEST,
    TARGET,
    Puzzle,
    State,
    Step,
    combine,
    expression,
    good_steps,
    label,
    legal_steps,
    natural_steps,
    parse_expression,
    reaches_24,
    show,
    state_of,
    training_puzzles,
)
from scripts.train_embedded.prompts import listed, mistyped, worded

Message = dict[str, Any]
COMMON_LIMIT = 200


@dataclass(frozen=True)
class Turn:
    """A question, its answer (with any tool messages in between) and the answer's loss weight."""

    messages: tuple[Message, ...]
    weight: int = 1
    tools: tuple[dict[str, Any], ...] = ()
    system: str | None = None


def turn(user: str, assistant: str, weight: int = 1) -> Turn:
    return Turn(({"role": "user", "content": user}, {"role": "assistant", "content": assistant}), weight)


@dataclass(frozen=True)
class Tables:
    """The puzzles and three-number states that training may draw from, sorted by what can become of them."""

    solvable: list[Puzzle] = field(default_factory=lambda: training_puzzles(True))
    unsolvable: list[Puzzle] = field(default_factory=lambda: training_puzzles(False))
    triples: dict[str, list[State]] = field(default_factory=dict)
    fractions: dict[str, list[State]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        walked = {step.left for p in (*self.solvable, *self.unsolvable) for step in legal_steps(state_of(p))}
        for state in sorted(walked | _free_triples()):
            whole = all(n.denominator == 1 for n in state)
            (self.triples if whole else self.fractions).setdefault(label(state), []).append(state)


def _free_triples() -> set[State]:
    pairs = [(c, d) for c in range(1, LARGEST + 1) for d in range(c, LARGEST + 1)]
    return {state_of((x, c, d)) for x in range(1, 145) for c, d in pairs}


@cache
def common_steps(state: State) -> tuple[Step, ...]:
    """The legal steps a person would try: whole results that are not huge."""
    chosen = [s for s in legal_steps(state) if s.value.denominator == 1 and s.value <= COMMON_LIMIT]
    return tuple(chosen) or legal_steps(state)


def random_step(rng: Random, state: State) -> Step:
    return rng.choice(common_steps(state) if rng.random() < 0.95 else legal_steps(state))


def mixed_step(rng: Random, state: State, good: float = 0.5) -> Step:
    """A step that keeps 24 in reach with probability `good`, where there is one; otherwise any step."""
    if rng.random() >= good or not reaches_24(state):
        return random_step(rng, state)
    return rng.choice(natural_steps(state) if rng.random() < 0.97 else good_steps(state))


def shuffled(rng: Random, numbers: Sequence[int | Fraction]) -> list[int | Fraction]:
    """Mostly any order; sorted, as a search sends them, now and then."""
    return sorted(numbers) if rng.random() < 0.3 else rng.sample(numbers, len(numbers))


def walk(rng: Random, state: State, good: float) -> list[Step]:
    path: list[Step] = []
    while len(state) > 1:
        path.append(mixed_step(rng, state, good))
        state = path[-1].left
    return path


def triple(rng: Random, tables: Tables, reachable: float) -> State:
    """Three numbers, a few of them with a fraction among them."""
    table = tables.fractions if rng.random() < 0.08 else tables.triples
    kind = next(k for k in table if k != IMPOSSIBLE) if rng.random() < reachable else IMPOSSIBLE
    return rng.choice(table[kind])


def start(rng: Random, tables: Tables, solvable: float) -> State:
    """Where a solution begins: a puzzle, or what is left of one."""
    if rng.random() < 0.12:
        return triple(rng, tables, solvable)
    return state_of(rng.choice(tables.solvable if rng.random() < solvable else tables.unsolvable))


# ---- the tasks


def ask(rng: Random, templates: Sequence[str], state: Sequence[int | Fraction], **more: object) -> str:
    """The canonical string, the first template, often; the numbers in any order and style."""
    if rng.random() < 0.35:
        return templates[0].format(n=show(shuffled(rng, state)), **more)
    return worded(
        rng, mistyped(rng, rng.choice(templates)).format(n=listed(rng, shuffled(rng, state)), **more)
    )


def no_way(state: State) -> str:
    return f"24 cannot be made from {show(state)}."


def last_line(state: State, path: Sequence[Step]) -> str:
    end = path[-1].value
    if end == TARGET:
        return f"Answer: {expression(state, path)} = 24"
    return f"Dead end: {end} is not 24."


def solve_turn(rng: Random, tables: Tables) -> Turn:
    state = start(rng, tables, 0.92)
    user = ask(rng, prompts.SOLVE, state)
    if not reaches_24(state):
        return turn(user, no_way(state))
    return turn(user, last_line(state, walk(rng, state, 1.0)), 2)


def _chain(rng: Random, templates: Sequence[str], state: State, good: float) -> Turn:
    path = walk(rng, state, good)
    return turn(ask(rng, templates, state), "\n".join([*map(str, path), last_line(state, path)]))


def steps_turn(rng: Random, tables: Tables) -> Turn:
    state = start(rng, tables, 0.94)
    if not reaches_24(state):
        return turn(ask(rng, prompts.STEPS, state), no_way(state))
    return _chain(rng, prompts.STEPS, state, 1.0)


def explore_turn(rng: Random, tables: Tables) -> Turn:
    return _chain(rng, prompts.EXPLORE, start(rng, tables, 0.85), 0.5)


def propose_turn(rng: Random, tables: Tables) -> Turn:
    state = start(rng, tables, 0.85)
    if len(state) == 3 and rng.random() < 0.25:
        state = mixed_step(rng, state).left
    if rng.random() < 0.45:
        return turn(ask(rng, prompts.PROPOSE_DEFAULT, state), proposals(rng, state, prompts.PROPOSALS))
    count = prompts.PROPOSALS if rng.random() < 0.4 else rng.randint(1, 12)
    return turn(ask(rng, prompts.PROPOSE, state, k=count), proposals(rng, state, count))


def proposals(rng: Random, state: State, count: int) -> str:
    """Different steps, about half of them good ones where there are any, in no order."""
    good = natural_steps(state)
    chosen = set(rng.sample(good, min(len(good), (count + 1) // 2)))
    others = [s for s in common_steps(state) if s not in chosen]
    chosen.update(rng.sample(others, min(len(others), count - len(chosen))))
    return "\n".join(rng.sample(sorted(map(str, chosen)), len(chosen)))


def judged_state(rng: Random, tables: Tables) -> State:
    size = rng.random()
    if size < 0.12:
        return state_of(rng.choice(tables.solvable if rng.random() < 0.6 else tables.unsolvable))
    state = triple(rng, tables, 0.5)
    if size < 0.82:
        return state
    state = mixed_step(rng, state, 0.7).left
    return state if size < 0.98 else random_step(rng, state).left


def judge_turn(rng: Random, tables: Tables) -> Turn:
    state = judged_state(rng, tables)
    return turn(ask(rng, prompts.JUDGE, state), label(state), 6)


# ---- checking an expression


def check_turn(rng: Random, tables: Tables) -> Turn:
    puzzle = rng.choice(tables.solvable)
    text, numbers = claim(rng, puzzle)
    if rng.random() < 0.5:
        text = ast.unparse(ast.parse(text, mode="eval"))
    shown = text.replace(" ", "") if rng.random() < 0.2 else text
    return turn(ask(rng, prompts.CHECK, puzzle, e=shown), verdict(text, numbers))


def claim(rng: Random, puzzle: Puzzle) -> tuple[str, Puzzle]:
    """An expression someone might offer: right, of a wrong value, or of wrong numbers."""
    state, kind = state_of(puzzle), rng.random()
    if kind < 0.5:
        return expression(state, walk(rng, state, 1.0)), puzzle
    if kind < 0.75:
        return expression(state, walk(rng, state, 0.3)), puzzle
    others = list(puzzle)
    if rng.random() < 0.6:
        others[rng.randrange(4)] = rng.randint(1, LARGEST)
    elif rng.random() < 0.5:
        others.pop(rng.randrange(4))
    else:
        others.append(rng.randint(1, LARGEST))
    other = state_of(others)
    return expression(other, walk(rng, other, 0.0)), puzzle


def verdict(text: str, puzzle: Puzzle) -> str:
    """First the numbers, then the value worked out, then the verdict."""
    used = sorted(parse_expression(text)[1])
    if used != sorted(puzzle):
        return f"Uses {show(used)}: no, the numbers are {show(sorted(puzzle))}. Invalid."
    lines: list[str] = []
    value = _work(ast.parse(text, mode="eval").body, lines)
    head = f"Uses {show(used)}: yes. {', '.join(lines)}: "
    return head + ("yes. Valid." if value == TARGET else "no, not 24. Invalid.")


def worked(text: str) -> list[str]:
    """An expression's operations in the order in which they are done."""
    lines: list[str] = []
    _work(ast.parse(text, mode="eval").body, lines)
    return lines


def _work(node: ast.expr, lines: list[str]) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    assert isinstance(node, ast.BinOp)
    a, b = _work(node.left, lines), _work(node.right, lines)
    op = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(node.op)]
    value = combine(a, op, b)
    assert value is not None
    lines.append(f"{a} {op} {b} = {value}")
    return value
