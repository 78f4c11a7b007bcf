"""What needs a CUDA device: scripts/test-gpu for all tests, scripts/bench-gpu for all figures.

Made for a machine that is rented by the minute. Each file of tests and each question is a process of
its own with a time limit, so none takes the others with it; what is known is written at once, so an end in
the middle loses nothing, and what has its result already is not asked again. Two variables say what a bare
copy of the tree cannot know: DENDRITE_COMMIT, and DENDRITE_RESULTS, a folder to write to instead of
benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import record

ROOT = Path(__file__).parent.parent

# Those that take longest first, as several run side by side.
TESTS = (
    "tests/gpu/test_attention_gpu.py",
    "tests/engine/test_overlap.py",
    "tests/engine/test_endurance.py",
    "tests/engine/test_deterministic.py",
    "tests/gpu/test_decode_gpu.py",
    "tests/gpu/test_start_gpu.py",
    "tests/gpu/test_engine_gpu.py",
    "tests/gpu/test_flashinfer_gpu.py",
    "tests/sampling/test_sampler_cuda.py",
    "tests/engine/test_golden.py",
)
# The longest that one test may take before it says where it is.
STUCK = 180

# What matters most first; seconds that a question may take.
QUESTIONS: tuple[tuple[str, list[str], int], ...] = (
    ("ceilings", [], 60),
    ("tree", [], 180),
    ("wide", [], 240),
    ("attention", [], 240),
    ("steps", [], 300),
    ("decode", ["--model", "shape:llama-3-8b", "--prompt-length", "512,4096", "--output-length", "512"], 240),
    ("start", [], 180),
    ("overlap", [], 300),
    ("branch-memory", [], 180),
    ("idle", [], 300),
    ("fork-overhead", [], 240),
)


@dataclass
class Ran:
    """A file of tests: its process, what it printed, what came of it."""

    path: str
    folder: Path
    limit: float
    threads: int
    options: Sequence[str]
    began: float = field(default_factory=time.monotonic)
    row: dict[str, Any] | None = None
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = self.path.replace("/", "_")
        self.log, self.xml = self.folder / f"{name}.log", self.folder / f"{name}.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist",
            "-o", f"faulthandler_timeout={STUCK}", f"--junitxml={self.xml}", self.path, *self.options,
        ]  # fmt: skip
        with self.log.open("w") as log:
            # Side by side, files would otherwise wait for each other's threads.
            few = {"OMP_NUM_THREADS": str(self.threads)}
            self.process = started(command, few, stdout=log, stderr=subprocess.STDOUT)

    def done(self) -> bool:
        """Whether it has ended, by itself or at its limit; then `row` says how."""
        seconds = time.monotonic() - self.began
        if self.process.poll() is None and seconds < self.limit:
            return False
        ended = stop(self.process)
        counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
        if self.xml.is_file():
            for suite in ET.parse(self.xml).getroot().iter("testsuite"):
                counts = {name: counts[name] + int(suite.get(name, 0)) for name in counts}
                self.failures += [
                    f"{self.path}::{case.get('name')}"
                    for case in suite.iter("testcase")
                    if case.find("failure") is not None or case.find("error") is not None
                ]
        failed = counts["failures"] + counts["errors"]
        self.row = {
            "file": self.path,
            "passed": counts["tests"] - failed - counts["skipped"],
            "failed": failed,
            "skipped": counts["skipped"],
            "seconds": round(seconds, 1),
            # 5: a selection that leaves none of this file.
            "ended": {0: "passed", 1: "failed", 5: "nothing chosen"}.get(ended, f"died ({ended})"),
        }
        return True

    @property
    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1][-100:] if lines else ""


def started(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """A process with a group of its own, which can be ended with all that it has started."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    env = {**quiet, **(environment or {}), **os.environ}
    return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **options)


def stop(process: subprocess.Popen[bytes]) -> int:
    """End a process if it still runs; what it returned."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def test(args: argparse.Namespace) -> int:
    """All files of tests, or this part of them, a few side by side; 1 if anything failed."""
    share, parts = (int(number) for number in args.part.split("/"))
    waiting, running, ended = list(TESTS[share - 1 :: parts]), list[Ran](), list[Ran]()
    said, threads = time.monotonic(), max(1, (os.cpu_count() or 1) // args.at_once)
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < args.at_once:
                running.append(Ran(waiting.pop(0), Path(folder), args.limit, threads, args.pytest))
            for ran in [ran for ran in running if ran.done()]:
                running.remove(ran)
                ended.append(ran)
                _tell(ran)
                _note(ended)
            if time.monotonic() - said > 30:
                said = time.monotonic()
                for ran in running:
                    print(f"... {ran.path}, {said - ran.began:.0f} s: {ran.last_line}", flush=True)
            time.sleep(0.2)
    print(record.table([ran.row or {} for ran in ended]))
    bad = [ran.path for ran in ended if ran.row and ran.row["ended"] not in ("passed", "nothing chosen")]
    print(f"failed: {', '.join(bad)}" if bad else "all passed")
    return int(bool(bad))


def _tell(ran: Ran) -> None:
    """One line for what went well, all that was printed for what did not."""
    assert ran.row is not None
    if ran.row["ended"] != "passed":
        print(ran.log.read_text(errors="replace"))
    print(*(f"{key} {value}" for key, value in ran.row.items()), sep=", ", flush=True)


def _note(ended: Sequence[Ran]) -> None:
    """Write what is known so far."""
    if not torch.cuda.is_available():
        return
    facts = record.facts()
    record.RESULTS.mkdir(exist_ok=True)
    path = record.RESULTS / f"test-gpu-{facts['date'][:10]}-{facts['device_tag']}.json"
    known = json.loads(path.read_text()) if path.is_file() else None
    rows = [ran.row for ran in ended if ran.row is not None]
    failures = [name for ran in ended for name in ran.failures]
    path.write_text(json.dumps(joined(known, facts, rows, failures)) + "\n")


def joined(
    known: dict[str, Any] | None, facts: dict[str, Any], rows: list[dict[str, Any]], failures: list[str]
) -> dict[str, Any]:
    """The record of these files, and of the others that `known` has of the same commit."""
    kept, failed = list[dict[str, Any]](), list[str]()
    if known is not None and known["commit"] == facts["commit"]:
        files = {row["file"] for row in rows}
        kept = [row for row in known["rows"] if row["file"] not in files]
        failed = [name for name in known["settings"]["failed"].split() if name.split("::")[0] not in files]
    settings = {"failed": " ".join([*failed, *failures])}
    return {"benchmark": "test-gpu", **facts, "settings": settings, "rows": [*kept, *rows]}


def bench(args: argparse.Namespace) -> int:
    """Ask what has no result of this commit and card, as far as the time goes; 1 if something is left."""
    begin, left = time.monotonic(), list[str]()
    for name, options, limit in QUESTIONS:
        if name not in args.questions:
            continue
        if not args.again and any(_answered(name)):
            print(f"{name}: there is a result already", flush=True)
            continue
        spare = args.minutes * 60 - (time.monotonic() - begin)
        # Most take half of what they may.
        if spare < limit / 2:
            left.append(name)
            continue
        command = [sys.executable, "-m", "benchmarks", name, *options, "--save"]
        print(f"\n$ {shlex.join(command[2:])}", flush=True)
        process, since = started(command), time.monotonic()
        try:
            process.wait(min(limit, spare))
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped at its limit", flush=True)
        if stop(process):
            left.append(name)
        print(
            f"[{name}: {time.monotonic() - since:.0f} s, {time.monotonic() - begin:.0f} s in all]", flush=True
        )
    print(f"left: {' '.join(left)}" if left else "nothing is left")
    return int(bool(left))


def _answered(name: str) -> Iterator[Path]:
    facts = record.facts()
    for folder in {record.RESULTS, ROOT / "benchmarks" / "results"}:
        for path in folder.glob(f"{name}-*-{facts['device_tag']}.json"):
            known = json.loads(path.read_text())
            if (known["benchmark"], known["commit"]) == (name, facts["commit"]) != (name, "unknown"):
                yield path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tests = commands.add_parser("test", description="Every test that needs a CUDA device.")
    tests.add_argument("--part", default="1/1", metavar="K/N", help="the K-th of N parts of the files")
    tests.add_argument("--at-once", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 3)))
    tests.add_argument("--limit", type=float, default=540, help="seconds that one file may take")
    tests.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    figures = commands.add_parser("bench", description="Every measurement that needs a CUDA device.")
    figures.add_argument("--minutes", type=float, default=60, help="of all together")
    figures.add_argument("--again", action="store_true", help="also what has a result")
    names = [name for name, _, _ in QUESTIONS]
    figures.add_argument("questions", nargs="*", default=names, metavar="QUESTION", help=", ".join(names))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device: what needs one is skipped or fails, and nothing is saved", flush=True)
    return test(args) if args.command == "test" else bench(args)


if __name__ == "__main__":
    sys.exit(main())
