"""Kernels compiled ahead of their first launch: that none is missing, and that they compile apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interpreted.test_graph_runner import FAMILIES


def ran(tmp_path: Path, *arguments: str) -> Any:
    """What a program of its own says as JSON; it has Triton's compiler, and an empty cache."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_steps_and_draws_launch_was_seen_ahead(family: str, tmp_path: Path) -> None:
    """Prompts, forks, few and many rows: nothing is left to be compiled when a request waits for it."""
    said = ran(tmp_path, "tests.interpreted.launches", "steps", family)
    assert said["missed"] == []
    assert {"product", "vector_product", "attend", "merge", "choose"} <= said["launched"].keys()


def test_kernels_compile_in_processes_of_their_own(tmp_path: Path) -> None:
    """Each is then found in the cache on disk, under the very key that this process looks for."""
    said = ran(tmp_path, "tests.interpreted.launches", "apart")
    assert said["compiled"] is True
    assert said["found"] == said["variants"]
    assert set(said["found"]) == {"choose", "rms_norm"}
    assert said["left"] is True, "a launch finds them without looking at the disk again"


def test_what_does_not_compile_is_left_for_its_first_launch(tmp_path: Path) -> None:
    said = ran(tmp_path, "tests.interpreted.launches", "broken")
    assert "some kernels will be compiled when they are first used" in said["log"]
    assert said["again"] is True, "nothing says that all is compiled"
