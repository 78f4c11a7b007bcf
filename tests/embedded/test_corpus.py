"""What the embedded model is trained on: nothing held out, the same from one seed, cut as the template is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import dendrite_core
from scripts.train_embedded import corpus
from scripts.train_embedded.game24 import is_held_out, reaches_24, solves, state_of
from scripts.train_embedded.puzzles import Tables, Turn, solve_turn
from scripts.train_embedded.tokenizer import head, prompt, segments
from scripts.train_embedded.tools import tool_turn

FOLDER = Path(dendrite_core.__file__).parent / "embedded"


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def turns(tables: Tables, count: int) -> Iterator[Turn]:
    rng = Random("test")
    for _ in range(count):
        yield corpus.draw_turn(rng, tables)
        if rng.random() < 0.2:
            yield corpus.draw_tool_turn(rng)


def four_numbers(text: str) -> Iterator[tuple[int, ...]]:
    """Any four numbers of 1 to 13 in a row on a line, with only signs between: stricter than the guard."""
    for line in text.split("\n"):
        for run in re.findall(r"(?<![\d./])\d+(?:[\s,+*/()\[\]-]+(?:and )?\d+)*(?![\d./])", line):
            if re.search(r"\d/\d", run) and not re.search(r"[+*(-]", run):
                continue  # a list with a fraction in it: numbers left, no puzzle
            numbers = [int(n) for n in re.findall(r"\d+", run)]
            if len(numbers) == 4 and all(1 <= n <= 13 for n in numbers):
                yield tuple(sorted(numbers))


def test_no_training_text_holds_a_held_out_puzzle(tables: Tables) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    for turn in turns(tables, 12_000):
        for message in turn.messages:
            seen.update(four_numbers(str(message["content"])))
    assert len(seen) > 1000
    assert not [puzzle for puzzle in seen if is_held_out(puzzle)]


def test_the_tables_hold_no_held_out_puzzle(tables: Tables) -> None:
    assert not [p for p in (*tables.solvable, *tables.unsolvable) if is_held_out(p)]
    assert all(
        len(state) == 3
        for table in (tables.triples, tables.fractions)
        for kind in table.values()
        for state in kind
    )


def test_long_filler_holds_no_held_out_puzzle() -> None:
    rng = Random("filler")
    assert not [p for _ in range(20) for p in four_numbers(corpus.filler(rng, 500)) if is_held_out(p)]


def test_every_direct_answer_is_right(tables: Tables) -> None:
    rng = Random(5)
    for _ in range(300):
        asked, answer = (m["content"] for m in solve_turn(rng, tables).messages)
        if not answer.startswith("Answer:"):
            numbers = [int(n) for n in re.findall(r"\d+", answer.split("from ")[1]) if "/" not in answer]
            assert "/" in answer or not reaches_24(state_of(numbers)), asked
        elif "/" not in asked:
            used = re.findall(r"\d+", answer.removesuffix(" = 24"))
            assert solves(answer, [int(n) for n in used]), answer


def test_a_batch_follows_from_its_seed_and_number(tables: Tables, tokenizer: Tokenizer) -> None:
    shape = corpus.Shape(2, 128)
    first, again = (corpus.batch(1, 3, shape, tables, tokenizer) for _ in range(2))
    other = corpus.batch(1, 4, shape, tables, tokenizer)
    assert first.shape == (2, 2, 129)
    assert (first == again).all()
    assert (first != other).any()


def test_pieces_join_to_what_the_chat_template_renders(tokenizer: Tokenizer) -> None:
    chat = AutoTokenizer.from_pretrained(FOLDER)
    rng = Random(2)
    for system in (None, "Be brief."):
        for _ in range(30):
            turn = tool_turn(rng)
            tools = list(turn.tools)
            messages = [{"role": "system", "content": system}] * bool(system) + list(turn.messages)
            pieces = [head(system, tools), *(text for text, _ in segments(turn.messages))]
            assert chat.apply_chat_template(messages, tools=tools, tokenize=False) == "".join(pieces)
            asked = chat.apply_chat_template(
                messages[:-1], tools=tools, tokenize=False, add_generation_prompt=True
            )
            assert asked == prompt(turn.messages[:-1], system, tools)
            ids = [i for encoding in tokenizer.encode_batch(pieces) for i in encoding.ids]
            assert ids == tokenizer.encode("".join(pieces)).ids
