"""The rules of the Game of 24: the solver against brute force, steps and expressions read back, the split."""

from __future__ import annotations

import itertools
from fractions import Fraction
from random import Random

import pytest

from scripts.train_embedded import game24
from scripts.train_embedded.game24 import expression, legal_steps, parse_step, solves, state_of
from scripts.train_embedded.puzzles import walk


def reachable(numbers: list[Fraction]) -> set[Fraction]:
    """Every value that numbers can make, the slow and plain way: negative values included."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[Fraction] = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        for value in {a + b, a - b, a * b} | ({a / b} if b else set()):
            found |= reachable([*rest, value])
    return found


@pytest.mark.parametrize("numbers", [(3, 3, 8, 8), (1, 5, 5, 5), (1, 1, 1, 1), (4, 9, 10, 13), (1, 3, 4, 6)])
def test_known_puzzles_agree_with_brute_force(numbers: tuple[int, ...]) -> None:
    assert game24.reaches_24(state_of(numbers)) == (24 in reachable([Fraction(n) for n in numbers]))


def test_random_states_agree_with_brute_force() -> None:
    rng = Random(7)
    for size in (2, 3, 3, 3, 4):
        for _ in range(12):
            numbers = [Fraction(rng.randint(1, 13)) for _ in range(size)]
            assert game24.reaches_24(state_of(numbers)) == (24 in reachable(numbers)), numbers


def test_1362_of_the_1820_puzzles_can_be_solved() -> None:
    puzzles = game24.all_puzzles()
    assert len(puzzles) == 1820
    assert sum(game24.reaches_24(state_of(p)) for p in puzzles) == 1362


def test_every_good_path_is_a_solution_and_its_lines_read_back() -> None:
    rng = Random(1)
    for puzzle in rng.sample(game24.held_out_puzzles(), 40):
        state = state_of(puzzle)
        path = walk(rng, state, good=1.0)
        assert solves(f"Answer: {expression(puzzle, path)} = 24", puzzle)
        for step in path:
            read = parse_step(str(step))
            assert read == step
            assert game24.is_legal(step, state)
            state = step.left


@pytest.mark.parametrize(
    "line",
    [
        "4 + 9 = 14 (left: 10 13 14)",
        "4 + 9 = 13 (left: 10 13)",
        "5 + 9 = 14 (left: 10 13 14)",
        "9 + 9 = 18 (left: 10 13 18)",
    ],
)
def test_a_wrong_step_is_read_but_not_legal(line: str) -> None:
    step = parse_step(line)
    assert step is not None
    assert not game24.is_legal(step, state_of((4, 9, 10, 13)))


@pytest.mark.parametrize(
    "line", ["", "4 + 9 = 13", "4 ^ 2 = 16 (left: 16)", "1/0 + 2 = 3 (left: 3)", "Answer: 4 * 6 = 24"]
)
def test_what_is_no_step_is_not_read(line: str) -> None:
    assert parse_step(line) is None


def test_steps_never_go_below_zero_and_never_divide_by_zero() -> None:
    for state in (state_of((0, 0, 5)), state_of((1, 1, 13)), state_of((Fraction(1, 3), 2))):
        assert all(step.value >= 0 and game24.is_legal(step, state) for step in legal_steps(state))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("(10 - 4) * (13 - 9)", True),
        ("Answer: (10 - 4) * (13 - 9) = 24", True),
        ("(10-4)*(13-9) = 24.", True),
        ("(10 - 4) * (13 - 9) = 25", False),
        ("(10 - 4) * 4", False),
        ("(10 - 4) * (13 - 9) * 1", False),
        ("24", False),
        ("10 ** 4", False),
        ("__import__('os')", False),
        ("4 / (9 - 9)", False),
        ("(" * 190, False),
        ("", False),
    ],
)
def test_an_expression_is_checked_exactly(text: str, right: bool) -> None:
    assert solves(text, (4, 9, 10, 13)) is right


def test_fractions_are_exact() -> None:
    assert solves("8 / (3 - 8 / 3)", (3, 3, 8, 8))


def test_labels() -> None:
    assert game24.label(state_of((4, 6))) == "sure"
    assert game24.label(state_of((24,))) == "sure"
    assert game24.label(state_of((3, 8, Fraction(8, 3)))) == "likely"
    assert game24.label(state_of((3, 3, 8, 8))) == "likely"
    assert game24.label(state_of((11, 12))) == "impossible"


def test_the_split_holds_out_a_fifth_and_depends_on_nothing_but_the_puzzle() -> None:
    held_out, training = game24.held_out_puzzles(None), game24.training_puzzles()
    assert not set(held_out) & set(training)
    assert len(held_out) + len(training) == 1820
    assert len(held_out) >= 0.15 * 1820
    assert len(game24.held_out_puzzles()) == 271
    # Pinned: a change of the hash would let yesterday's weights see today's exam.
    assert game24.is_held_out((2, 4, 7, 9))
    assert not game24.is_held_out((3, 3, 8, 8))


@pytest.mark.parametrize(
    "text",
    [
        "Solve 24: 9 2 7 4",
        "9, 4, 7 and 2",
        "[2,4,7,9]",
        "Is (9 - 7) * (2 + 4) = 24 right?",
        "(9-7)*(2+4)",
        "2 4 7 9\nok",
    ],
)
def test_a_held_out_puzzle_is_found_in_any_order_and_style(text: str) -> None:
    assert game24.mentions_held_out(text)


@pytest.mark.parametrize(
    "text", ["3 3 8 8", "2 4 7", "2 4 7 9 1", "2 + 4 = 6 (left: 6 7 9)\n6 + 7 = 13 (left: 9 13)"]
)
def test_what_is_no_held_out_puzzle_is_not_found(text: str) -> None:
    assert not game24.mentions_held_out(text)
