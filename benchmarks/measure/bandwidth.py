"""The limit of a decode step: the bytes it must read, over how fast this machine reads as many bytes."""

from __future__ import annotations

from time import perf_counter

import torch

from benchmarks.measure.models import folder_of
from dendrite_core.errors import DendriteError
from dendrite_core.models.config import NativeConfig, named_shape
from dendrite_core.models.loading import find_folder, read_config
from dendrite_core.models.rope import NotNative


def weights_read(model: str, itemsize: int) -> int | None:
    """Bytes of weights that a decode step reads: all but an input embedding that is no output head.

    None for a family without a native decoder, whose config says nothing we can count.
    """
    try:
        config = _config(model)
    except (NotNative, DendriteError):
        return None
    looked_up = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    return (config.parameters - looked_up) * itemsize


def read_bandwidth(size: int, threads: int | None, device: str, seconds: float = 1.0) -> float:
    """Bytes per second at which a buffer of `size` bytes is read again and again: the best pass of any number
    of threads up to `threads`, since two that wait for each other may read less than one.

    As large as what a step reads, so that a model that fits a cache is held to the cache's rate.
    """
    buffer = torch.ones(max(size // 4, 1), device=device)
    most = threads or torch.get_num_threads()
    return max(_best_rate(buffer, count, seconds / most) for count in range(1, most + 1))


def _best_rate(buffer: torch.Tensor, threads: int, seconds: float) -> float:
    torch.set_num_threads(threads)
    best, end = float("inf"), perf_counter() + seconds
    while perf_counter() < end:
        begin = perf_counter()
        buffer.sum()
        if buffer.is_cuda:
            torch.cuda.synchronize()
        best = min(best, perf_counter() - begin)
    return buffer.nbytes / best


def _config(model: str) -> NativeConfig:
    name = folder_of(model)
    if name.startswith("shape:"):
        return named_shape(name.removeprefix("shape:"))
    return read_config(find_folder(name))
