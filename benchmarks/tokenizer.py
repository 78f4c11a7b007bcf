"""How much faster tiktoken encodes than Hugging Face's tokenizer, once both are shown to agree.

First every text is encoded both ways and compared, token for token: real prose, code, text of random
characters from all of Unicode, special tokens, long runs. Only then are they timed, in turns, each time on
texts that neither has seen. What is timed is one call each, as a server makes it; Hugging Face's batch call
would use more threads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import tokenizers

from benchmarks.record import emit
from dendrite_core.text.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
EMBEDDED = ROOT / "dendrite_core" / "embedded"
LENGTHS = (100, 1_000, 10_000, 100_000)
FUZZED = 2_000

Encode = Callable[[str], list[int]]


def corpus() -> str:
    """Prose and code that is at hand: this project's own."""
    files = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("dendrite_*/**/*.py")])
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def first_disagreement(ours: Encode, theirs: Encode, special: list[str], seed: int = 0) -> str | None:
    """A text that the two encode differently, None if there is none among some thousands."""
    return next((text for text in _probes(special, Random(seed)) if ours(text) != theirs(text)), None)


def _probes(special: list[str], rng: Random) -> Iterator[str]:
    text = corpus()
    yield text
    for _ in range(FUZZED):
        at = rng.randrange(len(text))
        pieces = [text[at : at + rng.randrange(200)], _any_unicode(rng), rng.choice(special or [""])]
        pieces.append(rng.choice(" \n\t\r0aé漢😀'") * rng.randrange(60))
        rng.shuffle(pieces)
        yield "".join(pieces)


def _any_unicode(rng: Random) -> str:
    codes = (rng.choice((rng.randrange(0x800), rng.randrange(0x110000))) for _ in range(rng.randrange(40)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def compare(ours: Encode, theirs: Encode, length: int, rounds: int) -> dict[str, Any]:
    """Microseconds of one call each on texts of `length` characters, and the median ratio of a round."""
    text, rng = corpus(), Random(length)
    turns: list[tuple[float, float]] = []
    tokens = 0
    for number in range(rounds):
        at = rng.randrange(len(text) - length)
        # A line of its own, so that nobody has seen it.
        fresh = f"{number}\n{text[at : at + length]}"
        times = []
        for encode in (ours, theirs):
            begin = perf_counter()
            ids = encode(fresh)
            times.append((perf_counter() - begin) * 1e6)
        tokens += len(ids)
        turns.append((times[0], times[1]))
    return {
        "characters": length,
        "tokens": tokens // rounds,
        "tiktoken_us": median(one for one, _ in turns),
        "hugging_face_us": median(other for _, other in turns),
        "ratio": median(other / one for one, other in turns),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=str(EMBEDDED), help="folder or hub id (default: embedded)")
    parser.add_argument("--rounds", type=int, default=50)


def run(args: argparse.Namespace) -> None:
    """Compare, and only if nothing differs print the table of times."""
    tokenizer = Tokenizer.from_pretrained(args.model)
    if tokenizer.slow_because is not None:
        sys.exit(f"tiktoken is not used for this tokenizer: {tokenizer.slow_because}")
    hf = tokenizers.Tokenizer.from_str(tokenizer.to_json())

    def ours(text: str) -> list[int]:
        return tokenizer.encode(text, special=True)

    def theirs(text: str) -> list[int]:
        return list(hf.encode(text, add_special_tokens=False).ids)

    found = first_disagreement(ours, theirs, list(tokenizer.added_ids))
    if found is not None:
        sys.exit(f"the two disagree about {found[:200]!r}; nothing is timed")
    rows = [compare(ours, theirs, length, args.rounds) for length in LENGTHS]
    settings = {"model": Path(args.model).name, "rounds": args.rounds, "texts_compared": FUZZED + 1}
    emit("tokenizer", settings, rows, save=args.save)
