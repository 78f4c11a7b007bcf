# mypy: disable-error-code="no-untyped-call"
"""What a decode step costs at the runner: one stream, and many branches of one past, sampling included.

Random weights of Llama-3-8B's shape, random K and V, temperature 1. Checked against dense attention first.
`sync` reads every step's tokens on the CPU before the next one is launched; `overlapped` feeds them on the
device, as an engine does that reads one step behind. Why you should doubt this: no HTTP, no scheduler, no
text; random weights draw random tokens, so nothing is ever cached by luck.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.engines import calibration
from benchmarks.gpu.trees import PAGE, Level, Tree
from benchmarks.record import emit, percentile
from dendrite_core.forward.attention import AttentionShape, DenseAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.attention_flashinfer import FlashInferAttention
from dendrite_core.forward.cuda.attention_tree import TreeAttention
from dendrite_core.forward.runner import Runner, build_runner
from dendrite_core.models.config import named_shape
from dendrite_core.models.decoder import Decoder
from dendrite_core.models.loading import LoadedModel
from dendrite_core.models.weights import RandomWeights
from dendrite_core.sampling.sampler_cuda import CudaSampler

_UNIQUE = 128
_WORKLOADS: dict[str, list[Level]] = {
    "prompt 512": [(1, 512)],
    "prompt 4096": [(1, 4096)],
    **{f"{n} x {p}": [(1, p), (n, 16)] for p in (1024, 8192, 32768) for n in (16, 64, 256)},
    "64 x 1024, nothing shared": [(64, 1024)],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--attention-backend", choices=["tree", "flashinfer"], default="tree")
    parser.add_argument(
        "--workloads", nargs="+", choices=_WORKLOADS, default=list(_WORKLOADS), metavar="NAME"
    )


def run(args: argparse.Namespace) -> None:
    runner, sampler = _build(12000, args.attention_backend)
    error = _check(runner)
    rows = [_measure(runner, sampler, name, _WORKLOADS[name], args.steps) for name in args.workloads]
    settings = {
        "attention": args.attention_backend,
        "model": "shape:llama-3-8b bf16",
        "unique tokens a branch": _UNIQUE,
        "relative error of logits": error,
        "cpu seconds for 2M additions": calibration(),
        "prefill 8192 ms": _prefill(runner, 8192),
    }
    emit("steps", settings, rows, save=args.save)


def _build(pages: int, attention: str = "tree") -> tuple[Runner, CudaSampler]:
    device = torch.device("cuda")
    config = replace(named_shape("llama-3-8b"), max_position=65536)
    weights = RandomWeights(config, torch.bfloat16, device)
    decoder = Decoder(config, weights, dtype=torch.bfloat16, device=device)
    model = LoadedModel(config, decoder, "random", None)
    runner = build_runner(model, pages, PAGE, attention_backend=attention)
    runner.store.data.normal_()
    return runner, CudaSampler(config.vocab_size, device)


def _check(runner: Runner) -> float:
    """Relative distance of a tree's logits from the same step through dense attention."""
    batch = Tree.grow([(1, 208), (2, 64), (8, 32)], 64).step(5, 1)
    found = runner.run(batch).clone()
    store = runner.store
    dense, forward = DenseAttention(_shape(runner), store), ForwardBatch.build(batch, store.device)
    dense.plan(forward)
    want = runner.decoder.logits(runner.decoder(forward.token_ids, forward.positions, dense.attend))
    error = float((found - want).norm() / want.norm())
    # Both round to bfloat16 at every layer, each in its own way, over 32 layers of random weights.
    assert error < 0.1, f"logits are off by {error}"
    return error


def _shape(runner: Runner) -> AttentionShape:
    assert isinstance(runner.attention, TreeAttention | FlashInferAttention)
    return runner.attention.shape


def _measure(
    runner: Runner, sampler: CudaSampler, name: str, levels: list[Level], steps: int
) -> dict[str, Any]:
    first = _UNIQUE - 16 - steps if len(levels) > 1 else 0
    tree = Tree.grow(levels, first + steps + PAGE)
    batches = [tree.step(first + step, id(tree)) for step in range(steps)]
    for batch in batches[:2]:
        sampler.tokens(runner.run(batch), batch.draws)
    torch.cuda.synchronize()
    times = []
    for batch in batches[2:]:
        started = time.perf_counter()
        sampler.tokens(runner.run(batch), batch.draws).tolist()
        times.append(time.perf_counter() - started)
    tokens, started = None, time.perf_counter()
    for batch in batches[2:]:
        tokens = sampler.tokens(runner.run(batch, tokens), batch.draws)
    torch.cuda.synchronize()
    overlapped = (time.perf_counter() - started) / (steps - 2)
    return {
        "workload": name,
        "rows": len(tree.tables),
        "sync p50 ms": percentile(times, 50) * 1e3,
        "sync p99 ms": percentile(times, 99) * 1e3,
        "overlapped ms": overlapped * 1e3,
        "tokens/s": len(tree.tables) / overlapped,
    }


def _prefill(runner: Runner, tokens: int) -> float:
    pages = list(range(1, tokens // PAGE + 1))
    batch = Tree.grow([(1, tokens)], PAGE).step(0, 1)
    batch.token_ids, batch.positions = [5] * tokens, list(range(tokens))
    batch.slots = [page * PAGE + offset for page in pages for offset in range(PAGE)]
    batch.row_starts, batch.kv_lengths, batch.logits_at = [0, tokens], [tokens], [tokens - 1]
    runner.run(batch)
    torch.cuda.synchronize()
    started = time.perf_counter()
    runner.run(batch)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3
