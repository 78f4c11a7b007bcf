"""The Game of 24 in exact arithmetic: legal steps, what can still reach 24, expressions, the held-out split.

A state is a sorted tuple of Fractions. Steps never go below zero: |x| can stand for x anywhere in a solution,
so nothing solvable is lost. Held-out puzzles are chosen by a hash and must never enter a training text.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

TARGET = Fraction(24)
LARGEST = 13
HELD_OUT_PERCENT = 20

State = tuple[Fraction, ...]
Puzzle = tuple[int, int, int, int]

SURE, LIKELY, IMPOSSIBLE = "sure", "likely", "impossible"
LABELS = (SURE, LIKELY, IMPOSSIBLE)

_NUMBER = r"\d+(?:/\d+)?"
_STEP = re.compile(
    rf"\s*({_NUMBER}) ([-+*/]) ({_NUMBER}) = ({_NUMBER}) \(left: ({_NUMBER}(?: {_NUMBER})*)\)\s*"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One move: two numbers of a state become one; `left` is the state after it."""

    a: Fraction
    op: str
    b: Fraction
    value: Fraction
    left: State

    def __str__(self) -> str:
        return f"{self.a} {self.op} {self.b} = {self.value} (left: {show(self.left)})"


def state_of(numbers: Iterable[int | Fraction]) -> State:
    return tuple(sorted(Fraction(n) for n in numbers))


def show(state: Iterable[int | Fraction]) -> str:
    return " ".join(str(n) for n in state)


def combine(a: Fraction, op: str, b: Fraction) -> Fraction | None:
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    return a / b if b else None


def _pair_results(low: Fraction, high: Fraction) -> list[tuple[Fraction, str, Fraction, Fraction]]:
    results = [(low, "+", high, low + high), (high, "-", low, high - low), (low, "*", high, low * high)]
    if low:
        results.append((high, "/", low, high / low))
    if high and high != low:
        results.append((low, "/", high, low / high))
    return results


@cache
def legal_steps(state: State) -> tuple[Step, ...]:
    """Every different step from a state: the small operand first for + and *, never below zero."""
    steps: dict[tuple[Fraction, str, Fraction], Step] = {}
    for i, j in itertools.combinations(range(len(state)), 2):
        rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
        for a, op, b, value in _pair_results(state[i], state[j]):
            steps.setdefault((a, op, b), Step(a, op, b, value, tuple(sorted((*rest, value)))))
    return tuple(steps.values())


@cache
def reaches_24(state: State) -> bool:
    if len(state) == 1:
        return state[0] == TARGET
    return any(reaches_24(step.left) for step in legal_steps(state))


@cache
def good_steps(state: State) -> tuple[Step, ...]:
    """The steps after which 24 can still be reached."""
    return tuple(step for step in legal_steps(state) if reaches_24(step.left))


@cache
def reaches_24_whole(state: State) -> bool:
    """Whether 24 can be reached without a fraction on the way."""
    if any(n.denominator != 1 for n in state):
        return False
    return state == (TARGET,) or any(
        reaches_24_whole(step.left) for step in legal_steps(state) if len(state) > 1
    )


@cache
def natural_steps(state: State) -> tuple[Step, ...]:
    """The good steps a person would take: whole numbers all the way where that is possible."""
    whole = tuple(step for step in good_steps(state) if reaches_24_whole(step.left))
    return whole or good_steps(state)


def label(state: State) -> str:
    """sure: 24 can be reached with whole numbers all the way. likely: only by way of a fraction, which is
    easier to get wrong. impossible: 24 cannot be reached."""
    if reaches_24_whole(state):
        return SURE
    return LIKELY if reaches_24(state) else IMPOSSIBLE


def expression(puzzle: Iterable[int | Fraction], path: Sequence[Step]) -> str:
    """The steps of a path as one expression; every inner step keeps its parentheses."""
    items = [(Fraction(n), str(n)) for n in puzzle]
    for step in path:
        left, right = (_take(items, value) for value in (step.a, step.b))
        items.append((step.value, f"({left} {step.op} {right})"))
    text = items[-1][1]
    return text[1:-1] if path else text


def _take(items: list[tuple[Fraction, str]], value: Fraction) -> str:
    index = next(i for i, (number, _) in enumerate(items) if number == value)
    return items.pop(index)[1]


# ---- reading what a model wrote


def parse_step(line: str) -> Step | None:
    """A step line as written, right or wrong; None when it is no step line."""
    match = _STEP.fullmatch(line)
    if match is None:
        return None
    try:
        a, b, value = (Fraction(match[i]) for i in (1, 3, 4))
        return Step(a, match[2], b, value, state_of(Fraction(n) for n in match[5].split()))
    except ZeroDivisionError:
        return None


def is_legal(step: Step, state: State) -> bool:
    """Whether the step's numbers are in the state, its arithmetic is right and its `left` is what remains."""
    rest = list(state)
    for number in (step.a, step.b):
        if number not in rest:
            return False
        rest.remove(number)
    return combine(step.a, step.op, step.b) == step.value and step.left == tuple(sorted((*rest, step.value)))


def parse_expression(text: str) -> tuple[Fraction, list[int]]:
    """Value and numbers of an expression of whole numbers, + - * / and parentheses; else ValueError."""
    if len(text) > 200:
        raise ValueError("too long")
    leaves: list[int] = []
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body, leaves), leaves
    except (SyntaxError, RecursionError, MemoryError) as problem:
        raise ValueError("not an expression") from problem


_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def _evaluate(node: ast.expr, leaves: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        leaves.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left, leaves), _evaluate(node.right, leaves)
        value = combine(left, _OPERATORS[type(node.op)], right)
        if value is not None:
            return value
        raise ValueError("division by zero")
    raise ValueError("only + - * / of whole numbers")


def solves(text: str, puzzle: Iterable[int]) -> bool:
    """Whether an expression, with or without `Answer:` and `= 24`, makes 24 using each number once."""
    body = text.strip().removeprefix("Answer:").strip()
    body = re.sub(r"\s*=\s*24\s*\.?$", "", body)
    try:
        value, leaves = parse_expression(body)
    except ValueError:
        return False
    return value == TARGET and sorted(leaves) == sorted(puzzle)


# ---- the puzzles and their split


def all_puzzles() -> list[Puzzle]:
    """The 1,820 multisets of four numbers from 1 to 13."""
    return list(itertools.combinations_with_replacement(range(1, LARGEST + 1), 4))


@cache
def is_held_out(numbers: tuple[int, ...]) -> bool:
    """Split by a hash of the sorted numbers, so that it depends on nothing but the puzzle itself."""
    digest = hashlib.sha256(show(sorted(numbers)).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def training_puzzles(solvable: bool | None = None) -> list[Puzzle]:
    return _puzzles(False, solvable)


def held_out_puzzles(solvable: bool | None = True) -> list[Puzzle]:
    return _puzzles(True, solvable)


def _puzzles(held_out: bool, solvable: bool | None) -> list[Puzzle]:
    chosen = [p for p in all_puzzles() if is_held_out(p) == held_out]
    return [p for p in chosen if solvable is None or reaches_24(state_of(p)) == solvable]


_LIST = re.compile(r"(?<![\d./])\d+(?:(?:,? and |, ?| )\d+)+(?![\d./])")


def mentions_held_out(text: str) -> bool:
    """Whether a text holds a held-out puzzle, as a list of four numbers or in an expression."""
    groups = [[int(n) for n in re.findall(r"\d+", found)] for found in _LIST.findall(text)]
    for found in re.findall(r"[\d(][\d ()+*/-]*[\d)]", text):
        groups.append([int(n) for n in re.findall(r"\d+", found)])
    return any(
        len(g) == 4 and all(1 <= n <= LARGEST for n in g) and is_held_out(tuple(sorted(g))) for g in groups
    )
