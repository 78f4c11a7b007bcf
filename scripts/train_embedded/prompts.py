"""The project's own prompt formats for the Game of 24, and the many other ways people ask for the same.

The functions give the exact strings a search sends; the templates beside them are what the model also
learned to understand. `{n}` is the list of numbers, `{k}` a count, `{e}` an expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from random import Random

from scripts.train_embedded.game24 import LABELS, show

Numbers = Iterable[int | Fraction]
PROPOSALS = 8


def solve(numbers: Numbers) -> str:
    return f"Solve 24: {show(numbers)}"


def steps(numbers: Numbers) -> str:
    return f"Solve 24 step by step: {show(numbers)}"


def explore(numbers: Numbers) -> str:
    return f"Explore 24: {show(numbers)}"


def propose(numbers: Numbers, count: int = PROPOSALS) -> str:
    return f"Propose {count} next steps for 24: {show(numbers)}"


def judge(numbers: Numbers) -> str:
    return f"Judge for 24: {show(numbers)}"


def check(expression: str, numbers: Numbers) -> str:
    return f"Check for 24: {expression} with {show(numbers)}"


def parse_label(text: str) -> str | None:
    """The judge's word, or None when it said something else."""
    word = text.strip().rstrip(".").lower()
    return word if word in LABELS else None


SOLVE = (
    "Solve 24: {n}",
    "Solve the Game of 24 with {n}",
    "Solve the Game of 24: {n}",
    "Game of 24: {n}",
    "24 game: {n}",
    "Make 24 from {n}",
    "Make 24 with {n}",
    "Make 24 out of the numbers {n}",
    "How do I make 24 from {n}?",
    "How can I get 24 from {n}?",
    "How would you make 24 with {n}?",
    "Can you make 24 with {n}?",
    "Can you get 24 using {n}?",
    "Can {n} make 24?",
    "Use {n} to get 24",
    "Use {n} to make 24",
    "Use the numbers {n} and + - * / to obtain 24",
    "Use each of {n} once to make 24",
    "Combine {n} into 24",
    "Reach 24 using {n}",
    "Find an expression that makes 24 from {n}",
    "Find a way to get 24 from {n}",
    "Give me an expression equal to 24 with {n}",
    "Give me a solution for {n}",
    "What is a solution of the Game of 24 for {n}?",
    "What is the answer for {n}?",
    "I have the numbers {n}. Make 24.",
    "My numbers are {n}. Can you make 24?",
    "The numbers are {n}. Solve it.",
    "Let's play 24: {n}",
    "Solve {n}",
    "Solve this puzzle: {n}",
    "Solve 24 with {n}",
    "Here are four numbers: {n}. Make 24 with them.",
    "Write 24 with {n}",
    "Numbers: {n}. Target: 24.",
    "{n}: make 24",
    "{n} -> 24",
    "{n} = 24?",
    "24 from {n}",
    "24 with {n}",
    "make 24: {n}",
    "Can you solve {n}?",
    "Try {n}",
    "Solve the puzzle with numbers {n}",
    "Another one: {n}",
    "And {n}?",
    "What about {n}?",
    "{n}",
)

STEPS = (
    "Solve 24 step by step: {n}",
    "Solve the Game of 24 step by step with {n}",
    "Solve the Game of 24 step by step: {n}",
    "Game of 24, step by step: {n}",
    "Make 24 from {n}, step by step",
    "Make 24 with {n} and show your steps",
    "Show the steps to make 24 from {n}",
    "Show me step by step how to get 24 from {n}",
    "How do I make 24 from {n}? Show the steps.",
    "Think step by step: make 24 from {n}",
    "Think step by step and make 24 with {n}",
    "Solve {n} step by step",
    "Use {n} to get 24. Show each step.",
    "Use {n} to make 24. Think step by step.",
    "Get to 24 from {n} one step at a time",
    "Explain how to make 24 from {n}",
    "Work out 24 from {n} in steps",
    "Write the steps that turn {n} into 24",
    "Make 24 from {n}. One step per line.",
    "I have {n}. Make 24 and show the numbers left after each step.",
)

EXPLORE = (
    "Explore 24: {n}",
    "Explore the Game of 24 with {n}",
    "Explore steps for 24 from {n}",
    "Explore a way to 24 from {n}",
    "Try something for 24 with {n}",
    "Try steps towards 24 from {n}",
    "Try a line for 24: {n}",
    "Guess a way to 24 from {n}",
    "Wander towards 24 from {n}",
    "Take a random try at 24 with {n}",
    "Brainstorm a way to 24: {n}",
)

PROPOSE = (
    "Propose {k} next steps for 24: {n}",
    "Propose {k} possible next steps: {n}",
    "Propose {k} steps from {n}",
    "Suggest {k} next steps for 24 from {n}",
    "Suggest {k} next moves: {n}",
    "List {k} possible next steps for {n}",
    "List {k} moves for 24 from the numbers {n}",
    "Give me {k} next steps for {n}",
    "Give {k} possible first steps with {n}",
    "Which next steps are possible from {n}? Give {k}.",
    "Input: {n}\nPossible next steps ({k}):",
)

PROPOSE_DEFAULT = (
    "Propose next steps for 24: {n}",
    "Propose next steps: {n}",
    "Suggest next steps for 24: {n}",
    "What could I do next with {n}?",
    "What are possible next steps from {n}?",
    "Which next steps are possible from {n}?",
    "List possible next steps for 24: {n}",
    "Give me ideas for a next step from {n}",
    "I have {n} left. What next?",
    "Numbers left: {n}. Propose next steps.",
    "Input: {n}\nPossible next steps:",
)

JUDGE = (
    "Judge for 24: {n}",
    "Judge: {n}",
    "Judge {n}",
    "Judge the numbers {n} for 24",
    "Judge whether {n} can reach 24",
    "Can {n} still reach 24? Answer sure, likely or impossible.",
    "Can 24 be reached from {n}? Say sure, likely or impossible.",
    "Evaluate if {n} can reach 24 (sure/likely/impossible)",
    "Evaluate if given numbers can reach 24 (sure/likely/impossible): {n}",
    "Is 24 within reach of {n}: sure, likely or impossible?",
    "Rate {n} for 24: sure, likely or impossible",
    "How promising is {n} for 24? sure, likely or impossible",
    "Sure, likely or impossible: {n}",
    "sure/likely/impossible? {n}",
    "Numbers left: {n}. Sure, likely or impossible?",
    "Is it still possible to make 24 with {n}? (sure/likely/impossible)",
    "Can {n} reach 24?",
    "Is {n} possible?",
    "Is {n} solvable?",
    "Is {n} impossible?",
    "Is 24 possible with {n}?",
    "Is there a way from {n} to 24? Just judge.",
)

CHECK = (
    "Check for 24: {e} with {n}",
    "Check for 24: {e} = 24 with {n}",
    "Check {e} with the numbers {n}",
    "Check {e} = 24 for {n}",
    "Check this answer for {n}: {e}",
    "Check this answer for {n}: {e} = 24",
    "Is {e} a valid solution for {n}?",
    "Is {e} = 24 a valid solution for {n}?",
    "Is {e} = 24 correct for {n}?",
    "Is {e} right for {n}?",
    "Does {e} make 24 from {n}?",
    "Does {e} solve {n}?",
    "Does {e} = 24 solve {n}?",
    "Verify {e} = 24 with {n}",
    "Verify that {e} makes 24 using {n}",
    "The numbers are {n}. Is {e} = 24 valid?",
    "The numbers are {n}. My answer is {e}. Is it right?",
    "My answer for {n} is {e} = 24. Is that correct?",
    "I got {e} = 24 from {n}. Valid?",
    "Is {e} = 24 ok with {n}?",
    "Is {e} ok for {n}?",
    "Can I use {e} for {n}?",
    "{e} = 24 with {n}: right or wrong?",
    "Input: {n}\nAnswer: {e} = 24\nJudge:",
)


def listed(rng: Random, numbers: Numbers) -> str:
    """The numbers as people write them."""
    words = [str(n) for n in numbers]
    style = rng.random()
    if style < 0.55 or len(words) < 2:
        return " ".join(words)
    if style < 0.78:
        return ", ".join(words)
    if style < 0.84:
        return ",".join(words)
    if style < 0.95:
        return ", ".join(words[:-1]) + " and " + words[-1]
    return "[" + ", ".join(words) + "]"


def worded(rng: Random, text: str) -> str:
    """The small differences between people: please, case, the last mark, a slip of the finger."""
    if rng.random() < 0.12:
        text = (
            rng.choice(("Please ", "please ", "Now ", "Hi, ", "Hello! ", "Hey, ", "Ok, ", "hi there, "))
            + text
        )
    if rng.random() < 0.12:
        text = text.lower() if rng.random() < 0.7 else text[0].lower() + text[1:]
    if rng.random() < 0.04:
        text = re.sub(r"\byou\b", "u", re.sub(r"\bare\b", "r", re.sub(r"\byour\b", "ur", text)))
    if rng.random() < 0.15:
        ends = (".", "?", "!", " please", ", please")
        text = text.rstrip(".?") if text[-1] in ".?" else text + rng.choice(ends)
    return text


def mistyped(rng: Random, template: str) -> str:
    """Now and then a letter lost, doubled or swapped, but never inside a `{field}`."""
    parts = re.split(r"(\{\w+\})", template)
    part = rng.randrange(len(parts))
    text = parts[part]
    if rng.random() > 0.06 or part % 2 or len(text) < 4:
        return template
    at = rng.randrange(len(text) - 1)
    slips = (text[at + 1], text[at] * 2 + text[at + 1], text[at + 1] + text[at])
    parts[part] = text[:at] + rng.choice(slips) + text[at + 2 :]
    return "".join(parts)
