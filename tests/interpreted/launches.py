"""A program that compares what steps over real memory launch with what was seen ahead, and compiles it.

Run in a process of its own, because the interpreter's own process has no kernels that could be compiled. A
stand-in says that there is a Hopper card; nothing is launched.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from collections import Counter
from io import StringIO
from typing import Any
from unittest.mock import patch

import torch
from triton import knobs
from triton.runtime import driver

from dendrite_core.batching.batch import Draw
from dendrite_core.config import EngineConfig
from dendrite_core.engine.starting.ahead import launch_all
from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.cuda.attention_tree import TreeAttention
from dendrite_core.forward.cuda.cuda_graph import CudaRunner
from dendrite_core.forward.kv_store import KVStore
from dendrite_core.models.config import NativeConfig
from dendrite_core.models.cuda.card import Card
from dendrite_core.models.cuda.compiling import (
    Target,
    Variant,
    bring,
    compile_apart,
    compiled_before,
    foreseen,
    keep_writable,
)
from dendrite_core.models.cuda.forward import CudaForward
from dendrite_core.models.loading import LoadedModel
from dendrite_core.models.parts import read_parts
from dendrite_core.models.weights import RandomWeights
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.sampler_cuda import CudaSampler
from tests.forward.forest import Forest
from tests.interpreted.test_graph_runner import FAMILIES, TINY

PAGE, PAGES, BF16 = 16, 1200, torch.bfloat16
HOPPER = Card(early=True, wgmma=True, shared=232_448)
# Heads of 64, so that wide tiles are those of Hopper, and a width that is cut into parts.
SHAPE = {"hidden_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8, "head_dim": 64}
KINDS = (
    SamplingParams(),
    SamplingParams(temperature=0.0),
    SamplingParams(top_p=0.9),
    SamplingParams(presence_penalty=1.0, logit_bias={3: 1.0}),
)


class Hopper(Target):
    class utils:
        @staticmethod
        def get_device_properties(device: int) -> dict[str, int]:
            return {"max_shared_mem": HOPPER.shared}

    def get_current_stream(self, device: int) -> int:
        return 0


def steps(config: NativeConfig, seed: int) -> None:
    """Prompts, forks and decoding of 1 to 300 rows, with draws of several kinds, over memory of a CPU."""
    cpu, rng = torch.device("cpu"), random.Random(seed)
    drawn = RandomWeights(config, BF16, cpu)
    parts = read_parts(config, drawn, dtype=BF16, storage=BF16, device=cpu, max_length=4096, measured=False)
    store = KVStore(
        config.num_layers, PAGES, PAGE, config.num_kv_heads, config.head_dim, BF16, cpu, canaries=True
    )
    shape = AttentionShape(
        config.num_heads, config.num_kv_heads, config.head_dim, config.attention_scale, config.layer_windows
    )
    model = LoadedModel(config, CudaForward(config, parts), "", None)  # type: ignore[arg-type] # the pass alone
    runner = CudaRunner(model, store, TreeAttention(shape, store), 512)
    sampler, forest = CudaSampler(config.vocab_size, cpu), Forest(PAGE, PAGES, seed, scattered=True)
    root = forest.open()
    for rows in (1, 3, 40, 41, 70, 300):
        while len(forest.rows) < rows:
            forest.fork(root)
        # So long that some tens of rows are worth a wide tile.
        news = [{root: rng.randint(2200, 2600)}] if rows == 1 else []
        news += [dict.fromkeys(forest.rows, 1), {root: rng.randint(2, 30)}]
        news += [dict.fromkeys(forest.rows[:2], 90)]
        for new in news:
            batch = forest.step(new)
            batch.token_ids = [0] * len(batch.token_ids)
            batch.logits_at = [end - 1 for end in batch.row_starts[1:]]
            logits = runner.run(batch)
            for params in KINDS:
                seen = [5] * rng.randint(1, 40)
                sampler.tokens(logits, [Draw(r, params, 1, r, 9, seen, seen) for r in range(batch.rows)])


def named(variants: set[Variant]) -> dict[str, int]:
    return Counter(variant.name for variant in variants)


def ahead(family: str) -> tuple[NativeConfig, set[Variant]]:
    """A model, and what a start with it would compile."""
    config = NativeConfig.from_hf({"model_type": family, **TINY, **FAMILIES[family], **SHAPE})
    with foreseen() as variants:
        launch_all(config, EngineConfig(model="shape:none", max_rows=512, canaries=True), BF16)
    return config, variants


def compared(family: str) -> dict[str, Any]:
    config, expected = ahead(family)
    with (
        foreseen() as launched,
        patch("dendrite_core.models.cuda.forward.card_of", return_value=HOPPER),
        patch("dendrite_core.forward.cuda.attention_tree.card_of", return_value=HOPPER),
    ):
        steps(config, 1)
    return {"launched": named(launched), "missed": sorted(launched - expected)}


def compiled_apart() -> dict[str, Any]:
    """The most unlike of them; Hopper's is given a descriptor of the store."""
    _, expected = ahead("llama")
    few = {variant for variant in expected if variant.name in ("rms_norm", "attend_wide")}
    few.add(next(variant for variant in sorted(expected) if variant.name == "choose"))
    found: list[str] = []
    knobs.compilation.listener = lambda *, src, cache_hit, **_: cache_hit and found.append(src.fn.__name__)
    compiled = compile_apart(few)
    bring(few)
    _, still = ahead("llama")
    return {
        "compiled": compiled == few,
        "variants": sorted(variant.name for variant in few),
        "found": sorted(found),
        "left": len(still) == len(expected) - len(few) and not still & few,
    }


def broken(file: str) -> dict[str, Any]:
    """One process for a kernel, and one for another whose file does what it likes when it is read."""
    _, expected = ahead("llama")
    good = next(variant for variant in sorted(expected) if variant.name == "silu_mul")
    bad = Variant("a.kernel", file, "kernel", good.launch)
    log = StringIO()
    logging.basicConfig(stream=log)
    started = time.monotonic()
    with patch("os.sched_getaffinity", return_value=range(3)):
        there = compile_apart({good, bad}, 20.0)
    return {
        "seconds": time.monotonic() - started,
        "log": log.getvalue(),
        "there": [variant.name for variant in there],
        "all": compiled_before({good, bad}),
    }


def unwritable() -> dict[str, Any]:
    log = StringIO()
    logging.basicConfig(stream=log)
    keep_writable()
    _, expected = ahead("llama")
    few = {variant for variant in expected if variant.name == "silu_mul"}
    there = compile_apart(few)
    bring(there)
    return {"log": log.getvalue(), "there": there == few, "folder": knobs.cache.dir}


if __name__ == "__main__":
    driver.set_active(Hopper("cuda", 90, 32))
    asked, *arguments = sys.argv[1:]
    asks = {"steps": compared, "apart": compiled_apart, "broken": broken, "unwritable": unwritable}
    json.dump(asks[asked](*arguments), sys.stdout)
