"""The quality question's figures, and perplexity against transformers on the repository's own text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.measure.models import EMBEDDED, ModelChoice
from benchmarks.quality import Scored, agreement, score_here, score_in_transformers
from dendrite_core.text.tokenizer import Tokenizer

CARD = EMBEDDED / "README.md"


def windows(path: Path, count: int, size: int) -> list[list[int]]:
    ids = Tokenizer.from_pretrained(EMBEDDED).encode(path.read_text())
    return [ids[start : start + size] for start in range(0, count * size, size)]


def test_agreement_of_two_scores_made_by_hand() -> None:
    here = Scored([-1.0, -2.0], [[1, 2], [3, 4]])
    theirs = Scored([-1.0, -2.5], [[2, 1], [3, 5]])
    found = {row["measure"]: (row["here"], row["reference"]) for row in agreement(here, theirs)}
    assert found["perplexity"] == (pytest.approx(math.exp(1.5)), pytest.approx(math.exp(1.75)))
    assert found["largest logprob difference"] == (0.5, 0.0)
    assert found["top1 the same, %"] == (50.0, 100.0)
    assert found["top5 the same, %"] == (50.0, 100.0)


def test_golden_perplexity_003() -> None:
    text = windows(CARD, 3, 256)
    here = score_here(ModelChoice("embedded", precision="float32", threads=1), text)
    theirs = score_in_transformers(EMBEDDED, text, "float32")
    assert len(here.logprobs) == 3 * 255
    assert here.perplexity == pytest.approx(theirs.perplexity, rel=0.005)
    rows = {row["measure"]: row["here"] for row in agreement(here, theirs)}
    assert rows["largest logprob difference"] < 1e-2
    assert rows["top1 the same, %"] > 99.5
