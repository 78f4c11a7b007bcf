"""Kernels are compiled while weights are loaded: those that the start will launch, found by launching them.

The runner's graphs, the largest step and the sampler are run once over tensors without memory. Nothing is
computed then, but every launch comes by with the types, alignments and constants that it will have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module

import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw
from dendrite_core.config import EngineConfig
from dendrite_core.engine.measures.memory import Limits, largest_step
from dendrite_core.forward.cuda.attention_flashinfer import nothing_compiled
from dendrite_core.forward.runner import build_runner
from dendrite_core.models.config import NativeConfig
from dendrite_core.models.cuda.compiling import (
    bring,
    compile_apart,
    compiled_before,
    foreseen,
    keep_writable,
)
from dendrite_core.models.decoder import Decoder
from dendrite_core.models.loading import LoadedModel
from dendrite_core.models.weights import expected_shapes
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.sampler_cuda import CudaSampler

log = logging.getLogger("dendrite.engine")

# Seconds after the weights; a little more than the processes that compile are given.
_PATIENCE = 150
_NOWHERE = torch.device("meta")


@contextmanager
def compiling_ahead(
    asked: EngineConfig, dtype: torch.dtype, device: str
) -> Iterator[Callable[[NativeConfig], None]]:
    """Compile for the config that is handed in, beside what is done inside; at the end all is compiled.

    On a CPU nothing is done. Whatever goes wrong is logged, and kernels are compiled at their first launch.
    """
    threads: list[threading.Thread] = []

    def begin(config: NativeConfig) -> None:
        if device != "cpu":
            threads.append(threading.Thread(target=_compile, args=(config, asked, dtype), daemon=True))
            threads[-1].start()

    started = time.perf_counter()
    yield begin
    read = time.perf_counter()
    for thread in threads:
        thread.join(_PATIENCE)
        waited = time.perf_counter() - read
        if thread.is_alive():
            log.warning("kernels are compiled when they are first launched: not done after %.0f s", waited)
            return
        log.info("read the weights in %.1f s, then waited %.1f s for kernels", read - started, waited)


def _compile(config: NativeConfig, asked: EngineConfig, dtype: torch.dtype) -> None:
    started = time.perf_counter()
    try:
        keep_writable()
        with foreseen() as variants:
            launch_all(config, asked, dtype)
        if not variants:
            return
        seen = time.perf_counter() - started
        # Not before: the imports of one thread hold up those of another.
        importing = threading.Thread(target=_import_flashinfer, args=(asked,), daemon=True)
        importing.start()
        found = compiled_before(variants)
        there = variants if found else compile_apart(variants)
        bring(there)
        importing.join()
        seconds, how = time.perf_counter() - started, "found" if found else "compiled"
        log.info("%s %d kernels in %.1f s, seen ahead in %.1f s", how, len(there), seconds, seen)
    except Exception as error:
        # Triton's hooks and its way to compile differ from version to version; a start needs none of them.
        log.warning("kernels are compiled when they are first launched: %r", error)


def _import_flashinfer(asked: EngineConfig) -> None:
    """What `forward.cuda.choice` will ask takes a second to import; what it lacks is said there."""
    if asked.attention_backend == "flashinfer" or (
        asked.attention_backend == "auto" and not nothing_compiled()
    ):
        with suppress(Exception):
            import_module("flashinfer.jit")


class _Shapes:
    """Weights without memory."""

    def __init__(self, config: NativeConfig, dtype: torch.dtype) -> None:
        self.shapes, self.dtype = expected_shapes(config), dtype

    def read(self, name: str) -> Tensor:
        return torch.empty(self.shapes[name], dtype=self.dtype, device=_NOWHERE)


@torch.inference_mode()
def launch_all(config: NativeConfig, asked: EngineConfig, dtype: torch.dtype) -> None:
    """Launch what a start launches, and the simplest draws, over tensors without memory.

    Layers differ by their window alone, so there is one of each. What is no fused pass compiles little.
    """
    windows = tuple(dict.fromkeys(config.layer_windows))
    config = replace(config, num_layers=len(windows), layer_windows=windows)
    decoder = Decoder(
        config,
        _Shapes(config, dtype),
        dtype=dtype,
        device=_NOWHERE,
        max_length=asked.max_model_len,
        measured=False,
    )
    if not decoder.is_fused:
        return
    batch = largest_step(Limits.of(asked, "cuda", config.max_position), config.vocab_size)
    runner = build_runner(
        LoadedModel(config, decoder, "", None),
        batch.page_tables[-1][-1] + 1,
        asked.page_size,
        canaries=asked.canaries,
        attention_backend="tree",
        max_rows=asked.max_rows,
    )
    runner.prepare()
    logits, sampler = runner.run(batch), CudaSampler(config.vocab_size, _NOWHERE)
    sampler.tokens(logits, batch.draws)
    # One that leaves the logits as they are has them in the model's type, the others in float32.
    for params in (SamplingParams(), SamplingParams(top_p=0.9), SamplingParams(allowed_token_ids=(0,))):
        sampler.tokens(logits[:1], [Draw(0, params, 0, 0, 0)])
