"""Conversations from turns, and rows of tokens from conversations: the stream that training reads.

Everything follows from a seed and the number of a batch. A turn that holds a held-out puzzle, by whatever
accident, is thrown away and drawn again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random

import numpy as np
from tokenizers import Tokenizer

from scripts.train_embedded.extract import extract_turn, statement
from scripts.train_embedded.game24 import mentions_held_out
from scripts.train_embedded.puzzles import (
    Tables,
    Turn,
    check_turn,
    explore_turn,
    judge_turn,
    propose_turn,
    solve_turn,
    steps_turn,
)
from scripts.train_embedded.talk import chat_turn, nonsense, sum_turn
from scripts.train_embedded.tokenizer import END_OF_TEXT, control_ids, head, segments
from scripts.train_embedded.tools import declined_turn, tool_turn

# Share of turns. Judging is short and the search stands on it, so it comes often.
PUZZLE_TASKS: tuple[tuple[Callable[[Random, Tables], Turn], int], ...] = (
    (solve_turn, 15),
    (steps_turn, 12),
    (explore_turn, 12),
    (propose_turn, 8),
    (judge_turn, 26),
    (check_turn, 8),
)
_CONTROL = re.compile(r"<\|[a-z_]+\|>|</?tool_call>")
OTHER_TASKS: tuple[tuple[Callable[[Random], Turn], int], ...] = (
    (extract_turn, 10),
    (chat_turn, 11),
    (sum_turn, 7),
)
TOOL_SHARE = 0.12  # of conversations

SYSTEMS = (
    "You are a helpful assistant.", "You are Dendrite.", "You are a helpful AI assistant.", "Answer briefly.",
    "You are a concise assistant.", "You play the Game of 24.", "Be brief.", "You solve the Game of 24.",
    "You are an expert at the Game of 24.", "You are a careful assistant.", "Answer in one line.",
    "You are an assistant that uses tools.", "Think step by step.", "You extract JSON from text.",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Rows of one batch and their length; every batch holds about the same number of tokens."""

    rows: int
    length: int


def draw_turn(rng: Random, tables: Tables, sums: bool = True) -> Turn:
    """One turn of any task but tools; without sums where a calculator is on offer."""
    tasks: list[tuple[Callable[..., Turn], int]] = [*PUZZLE_TASKS, *OTHER_TASKS]
    while True:
        make = rng.choices([t for t, _ in tasks], [w for _, w in tasks])[0]
        if make is sum_turn and not sums:
            continue
        drawn = make(rng, tables) if any(make is t for t, _ in PUZZLE_TASKS) else make(rng)
        if not mentions_held_out(text_of(drawn)):
            return drawn


def draw_tool_turn(rng: Random) -> Turn:
    while True:
        drawn = declined_turn(rng) if rng.random() < 0.2 else tool_turn(rng)
        if not mentions_held_out(text_of(drawn)):
            return drawn


def text_of(turn: Turn) -> str:
    return "\n\n".join(f"{m['content']}\n{json.dumps(m.get('tool_calls', ''))}" for m in turn.messages)


def filler(rng: Random, words: int) -> str:
    """Text about nothing that matters, as long as asked."""
    parts: list[str] = []
    size = 0
    while size < words:
        parts.append(statement(rng) if rng.random() < 0.7 else nonsense(rng, rng.randint(3, 12)) + ".")
        size += parts[-1].count(" ") + 1
    text = " ".join(parts)
    return filler(rng, words) if mentions_held_out(text) else text


def conversation(rng: Random, tables: Tables, long: bool) -> list[tuple[str, int]]:
    """Pieces of one chat: a system turn or none, then turns that have nothing to do with each other."""
    system = None
    if rng.random() < 0.25:
        system = rng.choice(SYSTEMS) if rng.random() < 0.7 else filler(rng, rng.randint(10, 120))
    if long and rng.random() < 0.5:
        system = filler(rng, rng.randint(50, 1000))
    turns = 1 if rng.random() < 0.45 else rng.randint(2, 60 if long else 6)
    if rng.random() < TOOL_SHARE:
        return _with_tools(rng, tables, system, min(turns, 3))
    drawn = [draw_turn(rng, tables) for _ in range(turns)]
    return [(head(system), 0), *(piece for t in drawn for piece in segments(t.messages, t.weight))]


def _with_tools(rng: Random, tables: Tables, system: str | None, turns: int) -> list[tuple[str, int]]:
    """One turn uses a tool; others beside it do not need one."""
    main = draw_tool_turn(rng)
    drawn = [main, *(draw_turn(rng, tables, sums=False) for _ in range(turns - 1))]
    if rng.random() < 0.15:
        drawn = [draw_turn(rng, tables, sums=False)]
    rng.shuffle(drawn)
    return [
        (head(system, main.tools), 0),
        *(piece for t in drawn for piece in segments(t.messages, t.weight)),
    ]


def encode(tokenizer: Tokenizer, pieces: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    weights: list[int] = []
    for encoding, (_, weight) in zip(tokenizer.encode_batch([t for t, _ in pieces]), pieces, strict=True):
        ids += encoding.ids
        weights += [weight] * len(encoding.ids)
    return ids, weights


def batch(seed: int, number: int, shape: Shape, tables: Tables, tokenizer: Tokenizer) -> np.ndarray:
    """Batch `number`: [2, rows, length + 1] of token ids and loss weights. A row begins with a fresh chat."""
    rng = Random(f"{seed}/{number}")
    between = control_ids(tokenizer)[END_OF_TEXT]
    out = np.zeros((2, shape.rows, shape.length + 1), dtype=np.uint16)
    for row in range(shape.rows):
        ids: list[int] = []
        weights: list[int] = []
        while len(ids) <= shape.length:
            more = encode(tokenizer, conversation(rng, tables, long=shape.length > 1024))
            ids += [*more[0], between]
            weights += [*more[1], 0]
        out[0, row], out[1, row] = ids[: shape.length + 1], weights[: shape.length + 1]
    return out


# ---- many processes


def shape_of(number: int, tokens: int) -> Shape:
    """Mostly short rows; every seventh batch fills the whole context."""
    length = 4096 if number % 7 == 6 else 512
    return Shape(max(1, tokens // length), length)


# A worker process finds what it shares here; nothing else in the package is global.
_SHARED: dict[str, tuple[int, int, Tables, Tokenizer]] = {}


def _work(number: int) -> np.ndarray:
    seed, tokens, tables, tokenizer = _SHARED["stream"]
    return batch(seed, number, shape_of(number, tokens), tables, tokenizer)


def stream(
    seed: int, tokens: int, tables: Tables, tokenizer: Tokenizer, workers: int
) -> Iterator[np.ndarray]:
    """Batches 0, 1, 2... made by `workers` forked processes, which share the tables."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _SHARED["stream"] = (seed, tokens, tables, tokenizer)
    if workers == 0:
        yield from map(_work, range(1_000_000))
        return
    ahead = 4 * workers
    with get_context("fork").Pool(workers) as pool:
        waiting = [pool.apply_async(_work, (number,)) for number in range(ahead)]
        for number in range(ahead, 1_000_000):
            waiting.append(pool.apply_async(_work, (number,)))
            yield waiting.pop(0).get()


def sample_texts(seed: int, count: int, tables: Tables) -> Iterator[str]:
    """What stands between the control tokens of some conversations, to train the tokenizer on."""
    rng = Random(f"{seed}/tokenizer")
    for _ in range(count):
        text = "".join(text for text, _ in conversation(rng, tables, long=False))
        yield from filter(None, _CONTROL.split(text))
