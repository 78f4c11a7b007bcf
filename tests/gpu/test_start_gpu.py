"""A first start, with an empty kernel cache: its own process finds every kernel compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_STARTS = """
import json, sys
from triton import knobs
from dendrite_core import Engine, SamplingParams
found, missed = [], []
knobs.compilation.listener = lambda *, src, cache_hit, **_: (found if cache_hit else missed).append(src.name)
asked = SamplingParams(max_tokens=20, ignore_eos=True)
settings = {"device": "cuda", "attention_backend": "tree", "num_pages": 2000}
with Engine.from_pretrained("shape:llama-8m", **settings) as engine:
    started = list(missed)
    engine.generate([5] * 200, asked)
    for n in (3, 17, 40):
        engine.generate([5] * 99, asked, n=n)
json.dump({"found": found, "start": started, "requests": missed[len(started):]}, sys.stdout)
"""


def start(cache: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _STARTS],
        env={**os.environ, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_start_compiles_nothing_in_its_own_process(tmp_path: Path) -> None:
    said = start(tmp_path)
    assert len(said["found"]) > 30
    assert said["start"] == []
    assert said["requests"] == []
    assert list(tmp_path.glob("dendrite-*")), "all have been compiled, and the next start is told so"
    assert start(tmp_path)["start"] == []
