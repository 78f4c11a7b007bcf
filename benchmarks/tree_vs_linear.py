"""How much faster is a whole tree of thoughts on forks than with every branch's past computed again?

The full tree of a depth and a branch factor, thoughts of fixed length below one root prompt, the same seeds,
every branch a request of its own, a level in flight at once. `tree` forks. The others send the whole path of
every branch again: `prefix_cache` finds what it can in one, `linear` computes it all, which is what a client
does to a server without any cache; it too has a level in flight, and not one branch after the other.

Outputs are the same token for token with `--deterministic`. Without it a draw can turn where its number lies
within rounding of the boundary between two tokens, and the branch goes its own way from there: `turned`
counts such draws and `off_by` (float32 on a CPU) is the farthest any number lay from its boundary, by a plain
forward pass.
With `--compare-url` another server grows the same tree from whole paths, against a Dendrite server, both over
HTTP. Doubt it where the model is tiny: what is saved is prefill, so the ratio grows with the root and falls
with longer thoughts.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.game24 import chosen_puzzles, explore
from benchmarks.measure.models import folder_of
from benchmarks.measure.server import dendrite_server
from benchmarks.record import emit
from benchmarks.rounding import Referee, turned_draws
from dendrite_core import Engine, SamplingParams
from dendrite_core.search import Backend, DendriteBackend, EngineBackend, PlainBackend, ResendingEngine, Tree

TREE, LINEAR = "tree", "linear"
_SETTINGS = {
    *("model", "problem", "tree_depth", "branch_factor", "thought", "root", "rounds", "seed", "threads"),
    *("deterministic", "compare_url", "compare_model"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="embedded", help="embedded, a folder, a hub id, or shape:NAME")
    add("--tree-depth", type=int, default=5)
    add("--branch-factor", type=int, default=4)
    add("--thought", type=int, default=16, help="tokens per thought")
    add("--root", type=int, default=512, help="tokens of the root prompt")
    add("--problem", default="random", help="the root prompt: random tokens, game24, or a text to repeat")
    add("--rounds", type=int, default=1)
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=2)
    add("--dtype")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--deterministic", action="store_true", help="logits that do not depend on the batch")
    add("--compare-url", type=_named, metavar="[NAME=]URL", help="a server of the same model (name: vllm)")
    add("--compare-model", help="the model's name there (default: the first it tells of)")
    add("--quick", action="store_true", help="depth 3, root 256")


def _named(text: str) -> tuple[str, str]:
    name, _, url = text.rpartition("=")
    return name or "vllm", url


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Grow the tree in each way, `rounds` times in turns; rows by way, and the ratios to the tree."""
    if args.quick:
        args.tree_depth, args.root = 3, 256
    with Engine.from_pretrained(
        folder_of(args.model),
        threads=args.threads,
        dtype=args.dtype,
        device=args.device,
        deterministic=args.deterministic,
        num_pages=_pages(args),
    ) as engine:
        prompt = _prompt(engine, args)
        grown = asyncio.run(_grow_all(_ways(engine), prompt, args))
        rows = [_row(way, grown) for way in grown]
        _judge(rows, grown, engine, args, prompt)
    speedups = {f"speedup_vs_{row['way']}": row["times_slower"] for row in rows[1:]}
    if args.compare_url:
        served = asyncio.run(_compare(prompt, args))
        name = args.compare_url[0]
        rows += [{**_row(way, served, first="tree_http"), "way": way} for way in served]
        speedups[f"speedup_vs_{name}"] = rows[-1]["times_slower"]
    found = {
        "total_tree_time_s": rows[0]["seconds"],
        "branches_explored": rows[0]["branches"],
        **speedups,
    }
    asked = (
        "model",
        "problem",
        "tree_depth",
        "branch_factor",
        "thought",
        "root",
        "rounds",
        "seed",
        "threads",
    )
    settings = {name: getattr(args, name) for name in (*asked, "deterministic", "compare_url")}
    emit("tree-vs-linear", {**settings, **found}, rows, save=getattr(args, "save", False))
    return {"rows": rows, **found}


def _pages(args: argparse.Namespace) -> int:
    """Room for every leaf as a request of its own, as plain requests need while a level runs."""
    leaves = args.branch_factor**args.tree_depth
    longest = args.root + args.tree_depth * args.thought
    return int(min(leaves, 300) * -(-longest // 16) * 1.2) + 64


def _prompt(engine: Engine, args: argparse.Namespace) -> tuple[int, ...]:
    """The root, `--root` tokens long: every way is given the same ids."""
    if args.problem == "random":
        rng = random.Random(0)
        return tuple(rng.randrange(3, engine.config.vocab_size) for _ in range(args.root))
    texts = [args.problem]
    if args.problem == "game24":
        texts = [explore(puzzle)[0]["content"] for puzzle in chosen_puzzles(None)]
    ids: list[int] = []
    while len(ids) < args.root:
        for text in texts:
            ids += engine.tokenizer.encode(text + "\n")
    return tuple(ids[: args.root])


def _ways(engine: Engine) -> dict[str, Backend]:
    return {
        TREE: EngineBackend(engine),
        "prefix_cache": ResendingEngine(engine, prefix_cache=True),
        LINEAR: ResendingEngine(engine, prefix_cache=False),
    }


@dataclass(frozen=True, slots=True)
class Grown:
    """What one way took, round by round, and the tree it grew last."""

    seconds: list[float]
    tree: Tree


async def _grow_all(
    ways: dict[str, Backend], prompt: Sequence[int], args: argparse.Namespace
) -> dict[str, Grown]:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    trees: dict[str, Tree] = {}
    # The first step of an engine builds and loads what it needs.
    await (await _grow(ways[next(iter(ways))], prompt[:8], 1, args)).close()
    for _ in range(args.rounds):
        for way, backend in ways.items():
            begin = perf_counter()
            trees[way] = await _grow(backend, prompt, args.tree_depth, args)
            seconds[way].append(perf_counter() - begin)
            await trees[way].close()
            if isinstance(backend, ResendingEngine):
                await backend.close()
    return {way: Grown(seconds[way], trees[way]) for way in ways}


async def _grow(backend: Backend, prompt: Sequence[int], depth: int, args: argparse.Namespace) -> Tree:
    """The full tree, a level at a time."""
    # End tokens are banned, not ignored: a text that goes on drops the one it would have ended with.
    params = SamplingParams(max_tokens=args.thought, min_tokens=args.thought)
    tree = Tree(backend, prompt, seed=args.seed)
    level = [tree.root]
    for _ in range(depth):
        # Every branch is a request of its own, here as there: n choices of one request would share a prefill.
        alone = [branch for branch in level for _ in range(args.branch_factor)]
        grown = await tree.extend(alone, 1, params=params)
        level = [child for children in grown for child in children]
    return tree


def _row(way: str, grown: dict[str, Grown], first: str = TREE) -> dict[str, Any]:
    own, count = grown[way], grown[way].tree.count
    pairs = zip(own.seconds, grown[first].seconds, strict=True)
    return {
        "way": way,
        "seconds": median(own.seconds),
        "times_slower": median(mine / trees for mine, trees in pairs),
        "branches": len(own.tree.branches) - 1,
        "tokens_computed": count.computed,
        "tokens_generated": count.generated,
        "requests": count.requests,
    }


def _judge(
    rows: list[dict[str, Any]],
    grown: dict[str, Grown],
    engine: Engine,
    args: argparse.Namespace,
    prompt: tuple[int, ...],
) -> None:
    """Say of every way which branches are the tree's own, and what turned the others."""
    wanted, referee = grown[TREE].tree, None
    for row in rows:
        found = grown[row["way"]].tree
        pairs = list(zip(found.branches[1:], wanted.branches[1:], strict=True))
        row["same_branches"] = sum(one.token_ids == other.token_ids for one, other in pairs) / len(pairs)
        turned = turned_draws(found, wanted, prompt)
        row["turned"] = len(turned)
        # In bfloat16 rounding is coarse, and on a GPU the model may be too large to read again here.
        if turned and (engine.config.device, engine.config.dtype) == ("cpu", "float32"):
            referee = referee or Referee(folder_of(args.model), engine.tokenizer.eos_ids)
            row["off_by"] = max(map(referee.distance, turned))


async def _compare(prompt: Sequence[int], args: argparse.Namespace) -> dict[str, Grown]:
    """A Dendrite server and the other one, in turns, both over HTTP and each in a process of its own."""
    name, url = args.compare_url
    options = [
        "--model",
        folder_of(args.model),
        "--threads",
        str(args.threads),
        "--num-pages",
        str(_pages(args)),
    ]
    options += ["--dtype", args.dtype] if args.dtype else []
    options += ["--device", args.device] if args.device else []
    with dendrite_server(options) as own:
        async with _client(own) as here, _client(url) as there:
            model = args.compare_model or await _first_model(there)
            ways: dict[str, Backend] = {
                "tree_http": DendriteBackend(here, await _first_model(here)),
                name: PlainBackend(there, model, token_ids=True),
            }
            return await _grow_all(ways, prompt, args)


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[Any]:
    # Only those who compare need it.
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=None) as client:
        yield client


async def _first_model(client: Any) -> str:
    return str((await client.models.list()).data[0].id)
