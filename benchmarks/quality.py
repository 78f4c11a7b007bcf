"""Does the engine compute what transformers computes, and does the model do its tasks through the server?

Perplexity and the likeliest tokens on text, in windows that start anew: the engine's prompt logprobs against
transformers' logits of the same token ids and weights, each in a fresh process. `top1` and `top5` are the
share of positions where both name the same token, or the same five in any order. Then held-out Games of 24
through `/v1/chat/completions` at temperature 0, each answer checked in exact arithmetic, against the model
card, which transformers answered for. Doubt the perplexity as a grade of the embedded model: it was made for
a game and the text is prose, but a difference would show all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.game24 import Puzzle, chosen_puzzles, prompts, solves
from benchmarks.measure.client import Server, connect
from benchmarks.measure.fresh import in_fresh_process
from benchmarks.measure.models import EMBEDDED, ModelChoice, add_model_arguments, choice_of, folder_of
from benchmarks.measure.server import dendrite_server
from benchmarks.record import emit
from dendrite_core import SamplingParams
from dendrite_core.models.loading import find_folder
from dendrite_core.text.tokenizer import Tokenizer

TOP = 5
TASKS: dict[str, Callable[[Puzzle], str]] = {"greedy": prompts.solve, "steps_greedy": prompts.steps}


@dataclass(frozen=True, slots=True)
class Scored:
    """Of every token but each window's first: its logprob, and the ids of the likeliest, best first."""

    logprobs: list[float]
    top: list[list[int]]

    @property
    def perplexity(self) -> float:
        return math.exp(-sum(self.logprobs) / len(self.logprobs))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--text", type=Path, default=EMBEDDED / "README.md", help="the text to score")
    parser.add_argument("--tokens", type=int, default=4096, help="of it, from its beginning")
    parser.add_argument("--window", type=int, default=512, help="tokens that are scored in one go")
    parser.add_argument("--puzzles", type=int, help="how many held-out puzzles (default: all; 0: none)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of what was found here, and what is expected."""
    choice = choice_of(args)
    folder = find_folder(folder_of(args.model))
    tokens = Tokenizer.from_pretrained(folder).encode(args.text.read_text())[: args.tokens]
    windows = [tokens[start : start + args.window] for start in range(0, len(tokens) - 1, args.window)]
    here = in_fresh_process(score_here, choice, windows)
    rows = agreement(here, in_fresh_process(score_in_transformers, folder, windows, args.precision))
    # The tasks are those that the embedded model was made for.
    if args.model == "embedded" and args.puzzles != 0:
        with dendrite_server(choice.server_options()) as base_url:
            rows += asyncio.run(_tasks(base_url, chosen_puzzles(args.puzzles)))
    settings = {"model": args.model, "text": args.text.name, "window": args.window, "threads": args.threads}
    emit("quality", {**settings, "precision": args.precision}, rows, save=args.save)
    return rows


def agreement(here: Scored, theirs: Scored) -> list[dict[str, Any]]:
    """Rows: perplexity, the largest difference of a logprob, and how often the likeliest are the same."""
    count = len(here.logprobs)
    pairs = list(zip(here.top, theirs.top, strict=True))
    largest = max(abs(own - their) for own, their in zip(here.logprobs, theirs.logprobs, strict=True))
    first = sum(own[0] == their[0] for own, their in pairs) / count
    all_of_them = sum(set(own) == set(their) for own, their in pairs) / count
    return [
        _row("perplexity", here.perplexity, theirs.perplexity, count),
        _row("largest logprob difference", largest, 0.0, count),
        _row("top1 the same, %", 100 * first, 100.0, count),
        _row("top5 the same, %", 100 * all_of_them, 100.0, count),
    ]


def score_here(choice: ModelChoice, windows: list[list[int]]) -> Scored:
    params = SamplingParams(max_tokens=0, prompt_logprobs=TOP)
    logprobs, top = [], []
    with choice.engine() as engine:
        for window in windows:
            scored = engine.generate(window, params).started.prompt_logprobs
            assert scored is not None
            for entry in scored[1:]:
                assert entry is not None
                logprobs.append(entry.logprob)
                top.append([token for token, _ in entry.top[:TOP]])
    return Scored(logprobs, top)


def score_in_transformers(folder: Path, windows: list[list[int]], precision: str | None) -> Scored:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, precision or "float32")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    logprobs, top = [], []
    with torch.inference_mode():
        for window in windows:
            rows = model(torch.tensor([window])).logits[0, :-1].float().log_softmax(-1)
            logprobs += rows.gather(1, torch.tensor(window[1:])[:, None])[:, 0].tolist()
            top += rows.topk(TOP).indices.tolist()
    return Scored(logprobs, top)


async def _tasks(base_url: str, puzzles: list[Puzzle]) -> list[dict[str, Any]]:
    card = json.loads((EMBEDDED / "metrics.json").read_text())["evaluation"]
    async with connect(base_url) as server:
        return [
            _row(
                f"game of 24 solved, {name}, %",
                100 * sum(await _solved(server, puzzles, question)) / len(puzzles),
                100 * card[name]["rate"],
                len(puzzles),
            )
            for name, question in TASKS.items()
        ]


async def _solved(server: Server, puzzles: list[Puzzle], question: Callable[[Puzzle], str]) -> list[bool]:
    places = asyncio.Semaphore(16)

    async def one(puzzle: Puzzle) -> bool:
        async with places:
            answer = await server.answer(question(puzzle), 128)
        return solves(answer.strip().split("\n")[-1], puzzle)

    return list(await asyncio.gather(*map(one, puzzles)))


def _row(measure: str, here: float, reference: float, count: int) -> dict[str, Any]:
    difference = 100 * (here / reference - 1) if reference else None
    row = {"measure": measure, "here": here, "reference": reference, "difference_pct": difference}
    return {**row, "of": count}
