"""How fast does one stream decode, and how near is that to the memory's limit?

Prompts that no cache has seen, one at a time, through the engine, or through any OpenAI-compatible server
with `--base-url`; a fresh process for every prompt length, warmed, times of all trials together. The limit is
what a step must read, weights and KV, over the bandwidth of reading as many bytes, measured in the same run;
with `--base-url` it is given only where `--model` says what the server serves, here on this machine. Doubt it
where the model is small: it then lies in a cache, operators cost more than bytes, and the share says little.
Over HTTP a gap is the time between chunks, and a chunk may hold more than one token.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import product
from typing import Any

import torch

from benchmarks.measure.bandwidth import read_bandwidth, weights_read
from benchmarks.measure.client import connect
from benchmarks.measure.fresh import in_fresh_process
from benchmarks.measure.models import ModelChoice, add_model_arguments, choice_of, numbers, random_prompt
from benchmarks.measure.target import Asked, EngineTarget, Target
from benchmarks.measure.timeline import Timeline, decode_figures
from benchmarks.record import emit

Measured = dict[int, list[Timeline]]
"""Trials by output length."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, model=None)
    parser.add_argument("--base-url", help="an OpenAI-compatible server, with /v1 (default: an engine)")
    lengths = [512, 1024, 2048, 4096]
    parser.add_argument("--prompt-length", type=numbers, default=lengths, metavar="N,N,...")
    parser.add_argument("--output-length", type=numbers, default=[64, 512], metavar="N,N,...")
    parser.add_argument("--trials", type=int, default=5)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each pair of lengths that the model has room for."""
    if args.base_url is None and args.model is None:
        args.model = "embedded"
    choice, rows, facts = choice_of(args), [], dict[str, Any]()
    for prompt_length in args.prompt_length:
        lengths_and_trials = (prompt_length, args.output_length, args.trials)
        if args.base_url:
            measured, facts = in_fresh_process(_through_server, args.base_url, *lengths_and_trials)
        else:
            measured, facts = in_fresh_process(_through_engine, choice, *lengths_and_trials)
        for output_length, timelines in measured.items():
            lengths = {"prompt_length": prompt_length, "output_length": output_length}
            rows.append({**lengths, **decode_figures(timelines)})
    limit = _add_limits(rows, choice, facts) if args.model else {}
    asked = {"model": args.model, "through": args.base_url or "engine", "trials": args.trials}
    settings = {**asked, "threads": args.threads, **facts, **limit}
    emit("decode", settings, rows, save=args.save, variant=args.model)
    return rows


def _through_engine(
    choice: ModelChoice, prompt_length: int, output_lengths: list[int], trials: int
) -> tuple[Measured, dict[str, Any]]:
    longest = prompt_length + max(output_lengths)
    with choice.engine(num_pages=4 * -(-longest // 16)) as engine:
        config = engine.config
        facts = {
            "device": config.device,
            "precision": config.dtype,
            "kv_bytes_per_token": config.bytes_per_page // config.page_size,
        }
        fitting = [new for new in output_lengths if prompt_length + new <= config.max_model_len]
        return asyncio.run(_trials(EngineTarget(engine), prompt_length, fitting, trials)), facts


def _through_server(
    base_url: str, prompt_length: int, output_lengths: list[int], trials: int
) -> tuple[Measured, dict[str, Any]]:
    async def measure() -> tuple[Measured, dict[str, Any]]:
        async with connect(base_url) as server:
            measured = await _trials(server, prompt_length, output_lengths, trials)
            return measured, {"served_model": server.model}

    return asyncio.run(measure())


async def _trials(target: Target, prompt_length: int, output_lengths: list[int], trials: int) -> Measured:
    """The first trial of each length only warms up."""
    measured: Measured = {length: [] for length in output_lengths}
    for trial, length in product(range(trials + 1), output_lengths):
        prompt = random_prompt(1000 * trial + length, prompt_length)
        timelines = await target.stream(Asked(prompt, length, temperature=0))
        measured[length] += timelines if trial else []
    return measured


def _add_limits(rows: list[dict[str, Any]], choice: ModelChoice, facts: dict[str, Any]) -> dict[str, Any]:
    """Put the share of the limit into the rows; the bandwidths found, by bytes read."""
    precision = facts.get("precision") or choice.precision or "float32"
    weights = weights_read(choice.model, getattr(torch, precision).itemsize)
    if weights is None:
        return {}
    per_token = facts.get("kv_bytes_per_token", 0)
    bandwidth = in_fresh_process(read_bandwidth, weights, choice.threads, facts.get("device", "cpu"))
    for row in rows:
        kv = per_token * (row["prompt_length"] + row["output_length"] / 2)
        row["bandwidth_share_pct"] = 100 * (weights + kv) / bandwidth / (row["decode_p50_ms"] / 1e3)
    return {"weight_bytes": weights, "read_gb_s": bandwidth / 1e9}
