"""`dendrite-bench all`: what needs no GPU and no other server, each in a process of its own."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from time import monotonic

# What the short run asks: enough to see that all is in order, and where the figures lie.
QUICK: dict[str, list[str]] = {
    "decode": ["--prompt-length", "512", "--output-length", "64", "--trials", "3"],
    "fork-overhead": ["--prefix-length", "1000,128000", "--num-forks", "1,32", "--trials", "3"],
    "memory-profile": ["--scenario", "64 branches of one prompt", "tree, 4 ways, 4 deep", "depth 100"],
    "tree-vs-linear": ["--quick"],
    "constraint-overhead": [],
    "tokenizer": [],
    "tot": ["--puzzles", "12", "--budget", "400"],
    "serve": ["--streams", "1,8,32", "--requests", "48", "--load", "50", "--seconds", "4"],
    "quality": ["--tokens", "1024", "--puzzles", "60"],
    "vs-hf": ["--model", "embedded", "--rounds", "2"],
}
FULL: dict[str, list[str]] = {name: [] for name in QUICK} | {"vs-hf": ["--model", "embedded"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="ten minutes on two cores instead of an hour")
    parser.add_argument(
        "--only", nargs="+", choices=QUICK, default=list(QUICK), help="of the questions, these"
    )


def run(args: argparse.Namespace) -> None:
    """Ask one after the other; exits with 1 if one of them failed, after all were asked."""
    failed, begin = [], monotonic()
    for name in args.only:
        options = (QUICK if args.quick else FULL)[name] + (["--save"] if args.save else [])
        print(f"\n$ dendrite-bench {shlex.join([name, *options])}", flush=True)
        started = monotonic()
        if subprocess.run([sys.executable, "-m", "benchmarks", name, *options]).returncode:
            failed.append(name)
        print(f"[{monotonic() - started:.0f} s, {monotonic() - begin:.0f} s in all]", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
