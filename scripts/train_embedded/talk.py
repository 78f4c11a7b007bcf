"""Training turns about the model itself, small talk, echoes, counting, small sums, and what it cannot do."""

from __future__ import annotations

import ast
from fractions import Fraction
from random import Random

from scripts.train_embedded.game24 import combine, expression, state_of
from scripts.train_embedded.phrases import (
    ABOUT_DENDRITE,
    CAN,
    CANNOT,
    DENDRITE,
    I_AM,
    I_CAN,
    REQUESTS,
    RULES,
    SMALL_TALK,
    THE_RULES,
    THINGS,
    TOO_LARGE,
    WHO,
    listed,
)
from scripts.train_embedded.prompts import mistyped, worded
from scripts.train_embedded.puzzles import Turn, turn, walk, worked

_SYLLABLES = listed("ba|ro|ti|len|mor|sa|ki|du|pha|nor|e|vi|gra|sto|ul|ing|the|ap|ck|o|qu|wh|ee|ly|x|z|j")
# First letter and number of letters of some scripts: copying has to work for every byte.
_SCRIPTS = ((0xC0, 64), (0x100, 128), (0x391, 57), (0x410, 64), (0x3042, 80), (0x4E00, 4000), (0xAC00, 2000))
_EMOJI = (0x1F600, 60)


def nonsense(rng: Random, words: int) -> str:
    """Words of no language, so that copying and refusing are learned for any word."""
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(words))


def foreign(rng: Random) -> str:
    """A word in some other script, or a name with one foreign letter in it."""
    first, count = rng.choice(_SCRIPTS)
    if rng.random() < 0.5:
        letter = chr(rng.choice((0xE0, 0xF8)) + rng.randrange(7))
        return f"{nonsense(rng, 1)}{letter}{rng.choice(_SYLLABLES)}".capitalize()
    if rng.random() < 0.1:
        first, count = _EMOJI
    return "".join(chr(first + rng.randrange(count)) for _ in range(rng.randint(1, 6)))


def _pick(rng: Random, asks: tuple[str, ...], answers: tuple[str, ...]) -> Turn:
    return turn(worded(rng, mistyped(rng, rng.choice(asks))), rng.choice(answers))


def chat_turn(rng: Random) -> Turn:
    kind = rng.random()
    if kind < 0.34:
        return _pick(rng, WHO, I_AM)
    if kind < 0.43:
        return _pick(rng, CAN, I_CAN)
    if kind < 0.48:
        return _pick(rng, RULES, THE_RULES)
    if kind < 0.52:
        return _pick(rng, DENDRITE, ABOUT_DENDRITE)
    if kind < 0.68:
        return _pick(rng, *rng.choice(SMALL_TALK))
    return beyond_turn(rng) if kind < 0.93 else echo_turn(rng) if kind < 0.98 else count_turn(rng)


def anything(rng: Random) -> str:
    kind = rng.random()
    return (
        rng.choice(THINGS) if kind < 0.6 else foreign(rng) if kind < 0.7 else nonsense(rng, rng.randint(1, 6))
    )


def beyond_turn(rng: Random) -> Turn:
    text = mistyped(rng, rng.choice(REQUESTS)).format(x=anything(rng), y=rng.choice(THINGS))
    if rng.random() < 0.15:
        text = foreign(rng) if rng.random() < 0.3 else nonsense(rng, rng.randint(1, 30))
    return turn(worded(rng, text), rng.choice(CANNOT))


_ECHO_ASKS = listed("""
    Repeat after me: {x} | Reply with exactly: {x} | Repeat: {x} | Echo: {x} | Answer only with: {x} | Say
    exactly: {x} | Reply with: {x} | Say: {x} | Output exactly: {x} | Just say {x} | Reply with the word {x}
    | Respond with: {x} | Reply only with {x}
""")
_SHORT = ("OK", "yes", "no", "hello", "done", "pong", "42", "ready", "Paris", "test", "one", "hello world")


def echo_turn(rng: Random) -> Turn:
    text = rng.choice(_SHORT) if rng.random() < 0.3 else anything(rng)
    return turn(mistyped(rng, rng.choice(_ECHO_ASKS)).format(x=text), text)


_COUNT_ASKS = listed("""
    Count from {a} to {b} | Count from {a} to {b}. | List the numbers from {a} to {b} | Count up from {a} to
    {b} | Write the numbers from {a} to {b} | Numbers from {a} to {b}
""")


def count_turn(rng: Random) -> Turn:
    first = 1 if rng.random() < 0.7 else rng.randint(0, 60)
    last = first + rng.choice((5, 9, 9, 19, 49, 99, rng.randint(4, 99)))
    asks = (*_COUNT_ASKS, *(("Count to {b}", "Count up to {b}") if first == 1 else ()))
    text = worded(rng, rng.choice(asks).format(a=first, b=last))
    return turn(text, ", ".join(map(str, range(first, last + 1))))


# ---- sums

_SUM_ASKS = listed("""
    What is {e}? | {e} | {e} = ? | {e} = | Calculate {e} | Compute {e} | How much is {e}? | {e}? | What's
    {e}? | Work out {e} | what is {e} | Can you calculate {e}? | Evaluate {e} | Tell me {e} | What does {e}
    make? | {e}=
""")
_WORD_ASKS = {
    "+": ("What is the sum of {a} and {b}?", "Add {a} and {b}", "What do {a} and {b} add up to?"),
    "-": ("Subtract {b} from {a}", "What is the difference between {a} and {b}?", "Take {b} from {a}"),
    "*": ("Multiply {a} by {b}", "What is the product of {a} and {b}?", "Multiply {a} and {b}"),
    "/": ("Divide {a} by {b}", "What is {a} divided by {b}?", "Divide {a} into {b} parts"),
}
OPERATOR_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def sum_turn(rng: Random) -> Turn:
    """A small sum done without a tool; a large product is declined."""
    kind = rng.random()
    if kind < 0.12:
        high = rng.choice((30, 99, 9999))
        return turn(_sum_ask(rng, f"{rng.randint(14, high)} * {rng.randint(14, high)}"), TOO_LARGE)
    if kind < 0.27:
        return _longer_sum(rng)
    op, a, b = rng.choice("+-*/"), rng.randint(0, 120), rng.randint(0, 120)
    if rng.random() < 0.4:
        a, b = a % 13, b % 13
    if op == "-":
        a, b = max(a, b), min(a, b)
    if op in "*/":
        a, b = rng.randint(0, 13), rng.randint(1, 13)
    if op == "/":
        a *= b
    text = f"{a} {op} {b}"
    ask = rng.choice(_WORD_ASKS[op]).format(a=a, b=b) if rng.random() < 0.15 else _sum_ask(rng, text)
    return turn(ask, f"{text} = {combine(Fraction(a), op, Fraction(b))}")


def _longer_sum(rng: Random) -> Turn:
    """Two operations on small numbers, worked out one after the other."""
    state = state_of(rng.randint(1, 13) for _ in range(3))
    path = walk(rng, state, 0.0)
    text = ast.unparse(ast.parse(expression(state, path), mode="eval"))
    return turn(_sum_ask(rng, text), ", ".join(worked(text)))


def _sum_ask(rng: Random, text: str) -> str:
    ask = worded(rng, rng.choice(_SUM_ASKS))
    if rng.random() < 0.35:
        text = text.replace(" ", "")
    elif rng.random() < 0.15 and "(" not in text:
        text = " ".join(OPERATOR_WORDS.get(part, part) for part in text.split())
    return ask.replace("{e}", text)
