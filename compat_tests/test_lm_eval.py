"""lm-evaluation-harness against a server: the scores that its own transformers backend finds.

Its packages lie in .lm-eval, which `scripts/test --clients` makes; the rest it takes from .venv.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / ".lm-eval"
EMBEDDED = ROOT / "dendrite_core" / "embedded"


def evaluate(*base_url: str) -> dict[str, Any]:
    assert PACKAGES.exists(), "there is no .lm-eval; scripts/test --clients makes it"
    command = [sys.executable, str(ROOT / "compat_tests/lm_eval/scores.py"), str(EMBEDDED), *base_url]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_golden_lmeval_004(base_url: str) -> None:
    here, theirs = evaluate(base_url), evaluate()
    for task, scores in theirs["scores"].items():
        measured = {name: score for name, score in scores.items() if isinstance(score, float)}
        assert measured, task
        assert {name: here["scores"][task][name] for name in measured} == pytest.approx(measured, rel=1e-4)
    assert 0 < theirs["scores"]["solve"]["exact_match,claimed"] < 1
    for own, wanted in zip(here["samples"]["judge"], theirs["samples"]["judge"], strict=True):
        _same_likelihoods(own, wanted)
    assert here["samples"]["solve"] == theirs["samples"]["solve"]


def _same_likelihoods(own: list[Any], wanted: list[Any]) -> None:
    """Of each choice: its log-likelihood, and whether it is what greedy decoding would say."""
    for ((likelihood, greedy),), ((expected, is_greedy),) in zip(own, wanted, strict=True):
        assert likelihood == pytest.approx(expected, abs=1e-3)
        assert greedy == is_greedy
