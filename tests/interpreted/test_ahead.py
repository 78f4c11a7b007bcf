"""Kernels compiled ahead of their first launch: that none is missing, and that they compile apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import dendrite_core
from tests.interpreted.test_graph_runner import FAMILIES

# Not every way to bring Triton here brings the assembler it comes with.
_TRITON = find_spec("triton")
_ASSEMBLER = (
    Path(_TRITON.submodule_search_locations[0], "backends/nvidia/bin/ptxas")
    if _TRITON and _TRITON.submodule_search_locations
    else Path("nowhere")
)
compiles = pytest.mark.skipif(not _ASSEMBLER.exists(), reason="this Triton has no ptxas beside it")

_READ = """
import runpy, sys
program = runpy.run_path(sys.argv[1])
for path in sys.argv[2:]:
    program["_module"](program["Variant"](path, path, "", ""))
print(sorted({"torch", "dendrite_core"} & set(sys.modules)))
"""


def run(cache: Path, *command: str) -> str:
    """What a Python program of its own says; it has Triton's compiler."""
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(cache: Path, *arguments: str) -> Any:
    return json.loads(run(cache, "-m", "tests.interpreted.launches", *arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_steps_and_draws_launch_was_seen_ahead(family: str, tmp_path: Path) -> None:
    """Prompts, forks, few and many rows: nothing is left to be compiled when a request waits for it."""
    said = ran(tmp_path, "steps", family)
    assert said["missed"] == []
    launched = {"grow", "product", "vector_product", "rotate_and_store", "attend", "merge", "choose"}
    if family != "qwen3":  # Heads with a norm are rotated by a launch of their own,
        launched.add("vector_qkv")
    if family != "mistral":  # and wide tiles of Hopper's kind know no window.
        launched.add("attend_wide")
    assert launched <= said["launched"].keys()


@compiles
def test_kernels_compile_in_processes_of_their_own(tmp_path: Path) -> None:
    """Each is then found in the cache on disk, under the very key that this process looks for."""
    said = ran(tmp_path, "apart")
    assert said["compiled"] is True
    assert said["found"] == said["variants"]
    assert set(said["found"]) == {"attend_wide", "choose", "rms_norm"}
    assert said["left"] is True, "a launch finds them without looking at the disk again"


def test_such_a_process_imports_neither_torch_nor_dendrite(tmp_path: Path) -> None:
    """Which would take it longer than compiling what it is given."""
    core = Path(dendrite_core.__file__).parent
    compiling, *kernels = [
        str(core / file)
        for file in (
            "models/cuda/compiling.py",
            "models/cuda/kernels.py",
            "forward/cuda/tree_kernels.py",
            "forward/cuda/wide_kernel.py",
            "sampling/draw_kernel.py",
        )
    ]
    assert run(tmp_path, "-P", "-c", _READ, compiling, *kernels).strip() == "[]"


@compiles
@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit status -9"),
        ("import time; time.sleep(600)", "not done in time"),
        ("import sys, time; sys.stderr.write('x' * 1_000_000); kernel = None", "has no attribute 'preload'"),
    ],
    ids=["fails", "dies", "hangs", "talks"],
)
def test_what_a_process_does_not_compile_is_left_for_its_first_launch(
    file: str, why: str, tmp_path: Path
) -> None:
    """In bounded time, and nothing then says that all is compiled."""
    kernel = tmp_path / "kernel.py"
    kernel.write_text(file)
    said = ran(tmp_path / "cache", "broken", str(kernel))
    assert "1 kernels, or what launches them, are left for their first launch" in said["log"]
    assert why in said["log"]
    assert said["there"] == ["silu_mul"]
    assert said["all"] is False
    assert said["seconds"] < 40


@compiles
def test_where_the_cache_cannot_be_written_kernels_are_compiled_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = ran(tmp_path / "file" / "cache", "unwritable")
    assert "as Triton's cache cannot be written" in said["log"]
    assert said["there"] is True
    assert not Path(said["folder"]).exists(), "it is gone with its process"
