"""How do servers compare on the same work: one stream, 16 branches of one prompt, a tree?

Every server is asked through `/v1/completions` with the same token ids, in turns within every round, and the
ratio is taken within the round. `single` is 128 tokens after a new prompt of 128, less the prompt's time;
`branches` 16 choices of 64 tokens after a new prompt of 1,024; `tree` is grown from a root of 512, 4 ways, 3
deep, 16 tokens each: a Dendrite names the parent, others are sent the whole path again and find it in their
prefix cache. `tree_plain` is the same without naming parents, for all. Before each turn the machine has to be
quiet; `busy` is the worst found, in cores. Doubt it where servers were started with different precisions or
threads, which no API tells; and random weights draw random tokens, which detokenize to odd text.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.measure.client import Reply, Server, ServerRefused, connect
from benchmarks.measure.models import folder_of, random_prompt
from benchmarks.measure.quiet import wait_until_quiet
from benchmarks.measure.target import Asked
from benchmarks.record import emit
from dendrite_core.models.loading import find_folder
from dendrite_core.text.tokenizer import Tokenizer, byte_tokenizer

SINGLE_PROMPT, SINGLE_NEW = 128, 128
PAST, BRANCHES, BRANCH_NEW = 1024, 16, 64
ROOT, DEPTH, WIDTH, THOUGHT = 512, 3, 4, 16

Sample = dict[str, float | None]
"""Figures of one round; None where a server cannot do it."""
Encode = Callable[[str], list[int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    told = "a server, http://.../v1 or .../v1#MODEL; the others are compared with the first"
    parser.add_argument("--url", action="append", required=True, type=_named, metavar="NAME=URL", help=told)
    parser.add_argument("--model", default="embedded", help="whose tokenizer counts: a folder, or shape:NAME")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine")
    parser.add_argument("--note", help="kept with the result: builds, options, precisions of the servers")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each server: medians, and the median over rounds of its time over the first server's."""
    urls, first = dict(args.url), args.url[0][0]
    works = {name: WORKLOADS[name] for name in args.workload}
    compared = _compare(urls, works, _tokenizer(args.model), args.rounds, args.patience)
    rounds, busy, models = asyncio.run(compared)
    rows = [row_of(name, first, rounds) for name in urls]
    served = {name: Path(model).name for name, model in models.items()}
    settings = {"model": args.model, "rounds": args.rounds, "compared_with": first, "served": served}
    emit("vs", {**settings, "busy": busy, "note": args.note}, rows, save=args.save, variant=_variant(args))
    return rows


def row_of(name: str, first: str, rounds: list[dict[str, Sample]]) -> dict[str, Any]:
    """Medians of a server, and how many times the first server is as fast, within a round."""
    row: dict[str, Any] = {"server": name}
    for key in rounds[0][name]:
        pairs = [(found[name][key], found[first][key]) for found in rounds]
        whole = [(own, theirs) for own, theirs in pairs if own is not None and theirs is not None]
        row[key] = median(own for own, _ in whole) if whole else None
        higher_is_better = key.endswith("tok_s")
        ratios = [theirs / own if higher_is_better else own / theirs for own, theirs in whole]
        row[f"{key.rsplit('_', 2 if higher_is_better else 1)[0]}_ratio"] = median(ratios) if ratios else None
    return row


async def _compare(
    urls: dict[str, str], works: dict[str, Work], tokenizer: Tokenizer, rounds: int, patience: float
) -> tuple[list[dict[str, Sample]], float | None, dict[str, str]]:
    found: list[dict[str, Sample]] = []
    noise: list[float] = []
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(connect(url, tokenizer.decode))
            for name, url in urls.items()
        }
        for number in range(rounds + 1):
            found.append({})
            # Who begins changes, so that nobody always comes after the same neighbour.
            names = list(servers)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if number and (busy := await asyncio.to_thread(wait_until_quiet, patience)) is not None:
                    noise.append(busy)
                found[-1][name] = {
                    figure: await _if_able(work(servers[name], 1000 * number, tokenizer.encode))
                    for figure, work in works.items()
                }
        models = {name: server.model for name, server in servers.items()}
    return found[1:], max(noise, default=None), models


async def _if_able(work: Awaitable[float]) -> float | None:
    try:
        return await work
    except ServerRefused as refusal:
        print(f"not measured: {refusal}")
        return None


async def _single(server: Server, seed: int, encode: Encode) -> float:
    """Tokens a second after the first, which two prompts of their own give the time of."""

    async def seconds(seed: int, new: int) -> float:
        begin = perf_counter()
        await server.complete(Asked(random_prompt(seed, SINGLE_PROMPT), new, temperature=0))
        return perf_counter() - begin

    prefill = min([await seconds(seed + turn, 1) for turn in range(2)])
    return SINGLE_NEW / (await seconds(seed + 2, SINGLE_NEW + 1) - prefill)


async def _branches(server: Server, seed: int, encode: Encode) -> float:
    prompt = random_prompt(seed + 10, PAST)
    begin = perf_counter()
    await server.complete(Asked(prompt, BRANCH_NEW, n=BRANCHES, seed=seed))
    return perf_counter() - begin


async def _tree(server: Server, seed: int, encode: Encode) -> float:
    return await _grow(server, seed + 20, encode, named=server.has_tree)


async def _tree_plain(server: Server, seed: int, encode: Encode) -> float:
    return await _grow(server, seed + 21, encode, named=False)


async def _grow(server: Server, seed: int, encode: Encode, *, named: bool) -> float:
    level: list[tuple[list[int], str | None]] = [(random_prompt(seed, ROOT), None)]
    begin = perf_counter()
    for _ in range(DEPTH):
        replies = await asyncio.gather(*(_children(server, seed, path, parent) for path, parent in level))
        level = [
            (path if named else path + encode(text), branch if named else None)
            for (path, _), reply in zip(level, replies, strict=True)
            for text, branch in zip(reply.texts, reply.branch_ids, strict=True)
        ]
    assert len(level) == WIDTH**DEPTH
    return perf_counter() - begin


async def _children(server: Server, seed: int, path: list[int], parent: str | None) -> Reply:
    return await server.complete(Asked([] if parent else path, THOUGHT, n=WIDTH, parent=parent, seed=seed))


Work = Callable[[Server, int, Encode], Awaitable[float]]
WORKLOADS: Mapping[str, Work] = {
    "single_tok_s": _single,
    "branches_s": _branches,
    "tree_s": _tree,
    "tree_plain_s": _tree_plain,
}


def _tokenizer(model: str) -> Tokenizer:
    name = folder_of(model)
    if name.startswith("shape:"):
        return byte_tokenizer()
    return Tokenizer.from_pretrained(find_folder(name))


def _variant(args: argparse.Namespace) -> str:
    return "_".join(name for name, _ in args.url) + "_" + str(args.model).replace("shape:", "")


def _named(text: str) -> tuple[str, str]:
    name, found, url = text.partition("=")
    if not (found and url.startswith("http")):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=http://.../v1")
    return name, url
