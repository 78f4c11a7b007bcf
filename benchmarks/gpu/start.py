"""How long from starting the process to the first token, with an empty kernel cache and with a warm one?

Each measurement is a process of its own that builds an engine with random weights and asks for one token.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.record import emit

_CHILD = """
import sys, time
started = time.perf_counter()
import json, logging
from dendrite_core import Engine, SamplingParams
imported = time.perf_counter()
said = []
class Note(logging.Handler):
    def emit(self, record):
        said.append(f"{time.perf_counter() - imported:6.2f} s  {record.getMessage()}")
logging.getLogger("dendrite").addHandler(Note())
logging.getLogger("dendrite").setLevel("INFO")
engine = Engine.from_pretrained(sys.argv[1])
ready = time.perf_counter()
engine.generate([5] * 64, SamplingParams(max_tokens=1, ignore_eos=True))
done = time.perf_counter()
seconds = {"import": imported - started, "engine": ready - imported, "first token": done - ready}
print(json.dumps({"seconds": seconds, "said": said}))
engine.close()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="shape:llama-3-8b", help="a folder, a hub id or shape:NAME")


def run(args: argparse.Namespace) -> None:
    import torch

    torch.cuda.is_available()  # So that the record names the GPU.
    with tempfile.TemporaryDirectory() as kernels:
        rows = [_start(args.model, kernels, which) for which in ("first", "warm", "warm")]
    emit("start", {"model": args.model}, rows, save=args.save)


def _start(model: str, kernels: str, which: str) -> dict[str, Any]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, model],
        env={**os.environ, "TRITON_CACHE_DIR": kernels},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    seconds = told["seconds"]
    print(f"{which}, since the imports:", *told["said"], sep="\n")
    ready = seconds["import"] + seconds["engine"]
    return {"start": which, "ready s": ready, **seconds, "process s": time.perf_counter() - started}
