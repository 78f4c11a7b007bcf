"""What does a tree of branches take in KV pages, how much of it is shared, and which page size suits
trees?

Each scenario is grown on a real engine with random weights, whose draws never coincide, in a fresh process
for every page size, a level at a time as searches do. `sharing_ratio` is the pages that the leaves would need
each alone over the pages allocated; `fragmentation_pct` the part of the allocated slots that holds no token
of its own: room at the ends of branches, and what copy-on-write copied. `peak_memory_mb` is the whole process
with torch in it (on a GPU, what torch allocated there), so compare it between rows and not with a model's
size. Doubt `tokens_s` on a busy machine; the pages do not depend on it. Page sizes differ in speed by device:
these are this one's.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.measure.fresh import in_fresh_process
from benchmarks.measure.models import ModelChoice, add_model_arguments, choice_of, numbers, random_prompt
from benchmarks.record import emit
from dendrite_core import Engine, SamplingParams
from dendrite_core.engine.messages import BranchInfo

_SLOTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Scenario:
    """A root of `root` tokens, and per level how many children each kept branch gets, of how many tokens.

    `keep` branches of a level go on, all where it is None.
    """

    root: int
    levels: tuple[tuple[int, int], ...]
    keep: int | None = None


SCENARIOS: Mapping[str, Scenario] = {
    "64 branches of one prompt": Scenario(512, ((64, 64),)),
    "tree, 4 ways, 4 deep": Scenario(512, ((4, 16),) * 4),
    "game of 24, best 5 kept": Scenario(48, ((24, 12), (16, 12), (8, 12)), keep=5),
    "chat, every answer tried twice": Scenario(256, ((2, 64),) * 8, keep=1),
    "depth 10": Scenario(64, ((1, 4),) * 10),
    "depth 100": Scenario(64, ((1, 4),) * 100),
    "depth 1000": Scenario(64, ((1, 4),) * 1000),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, model="shape:llama-8m")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--page-size", type=numbers, default=[8, 16, 32], metavar="N,N,...")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each scenario and page size."""
    rows = [
        in_fresh_process(profile, choice_of(args), name, page_size)
        for name in args.scenario
        for page_size in args.page_size
    ]
    emit("memory-profile", {"model": args.model, "threads": args.threads}, rows, save=args.save)
    return rows


def profile(choice: ModelChoice, name: str, page_size: int) -> dict[str, Any]:
    """Grow one scenario and count what it holds at its largest, which is its end."""
    with choice.engine(page_size=page_size, num_pages=_SLOTS // page_size) as engine:
        asyncio.run(_grow(engine, Scenario(16, ((2, 4),))))
        before = engine.stats().result()
        begin = perf_counter()
        tree_id, fork_us = asyncio.run(_grow(engine, SCENARIOS[name]))
        seconds = perf_counter() - begin
        stats, branches = engine.stats().result(), engine.describe_tree(tree_id).result()
        used = stats.pages_used - before.pages_used
        alone = pages_alone(branches, page_size)
        return {
            "scenario": name,
            "page_size": page_size,
            "kv_pages_allocated": used,
            "kv_pages_shared": stats.pages_shared - before.pages_shared,
            "sharing_ratio": alone / used,
            "fragmentation_pct": 100 * (1 - distinct_tokens(branches) / (used * page_size)),
            "kv_mb": used * engine.config.bytes_per_page / 2**20,
            "peak_memory_mb": _peak_bytes(engine.config.device) / 2**20,
            "pages_copied": stats.cow_copies - before.cow_copies,
            "fork_us": fork_us,
            "tokens_s": (stats.generated_tokens - before.generated_tokens) / seconds,
        }


def distinct_tokens(branches: Sequence[BranchInfo]) -> int:
    """Tokens of the tree whose KV some branch holds, each counted once.

    A branch's KV covers its ancestors' tokens too, up to where it left them: the last token of a parent is
    computed by its first child.
    """
    by_id = {branch.branch_id: branch for branch in branches}
    covered = dict.fromkeys(by_id, 0)
    for branch in branches:
        at: BranchInfo | None = branch
        end = branch.kv_tokens
        while at is not None:
            covered[at.branch_id] = max(covered[at.branch_id], end)
            end = min(end, _start(at))
            at = by_id.get(at.parent_id or "")
    return sum(max(0, covered[branch.branch_id] - _start(branch)) for branch in branches)


def pages_alone(branches: Sequence[BranchInfo], page_size: int) -> int:
    """Pages that the leaves would need if each kept its whole past for itself."""
    return sum(-(-branch.kv_tokens // page_size) for branch in branches if not branch.children)


def _start(branch: BranchInfo) -> int:
    return branch.length - branch.own_tokens


async def _grow(engine: Engine, scenario: Scenario) -> tuple[str, float]:
    """The tree's id, and the median time of a request's forks in the last level, in microseconds."""
    prompt = random_prompt(len(scenario.levels) * 1000 + scenario.root, scenario.root)
    level, tree_id, fork_us = [""], "", 0.0
    for width, tokens in scenario.levels:
        # Seeded, for siblings that by chance draw alike would be one line of the trie.
        params = SamplingParams(max_tokens=tokens, min_tokens=tokens, seed=1)
        grown = await asyncio.gather(
            *(
                engine.agenerate("" if parent else prompt, params, n=width, parent_id=parent or None)
                for parent in level[: scenario.keep]
            )
        )
        tree_id = grown[0].started.tree_id
        fork_us = median(completion.started.fork_us for completion in grown)
        level = [choice.branch_id for completion in grown for choice in completion.choices]
    return tree_id, fork_us


def _peak_bytes(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
