# mypy: disable-error-code="no-untyped-call"
"""`FlashInferAttention`: the same attention through FlashInfer's fa2 kernels, one call and one merge a level.

An alternative to `TreeAttention` and a second opinion on it. Prefill, decode and cascade are one path: the
levels of `levels.py`, each a paged prefill. fa2 is forced, because what FlashInfer picks on Hopper neither
splits K and V nor packs the heads that share them. Written against FlashInfer 0.6.14; it compiles its kernels
at first use (half a minute), plans on the CPU every step and is launched kernel by kernel.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dendrite_core.errors import ModelLoadError
from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.attention_tree import rotate_and_store
from dendrite_core.forward.cuda.levels import LEVEL_COST, levels_of
from dendrite_core.forward.kv_store import KVStore

_WORKSPACE = 128 << 20
_HEAD_DIMS = (64, 128, 256)
_MOST_HEADS = 64


def unusable(shape: AttentionShape, dtype: torch.dtype) -> str | None:
    """Why FlashInfer cannot serve this model here, or None."""
    if find_spec("flashinfer") is None:
        return "flashinfer-python is not installed"
    if dtype not in (torch.bfloat16, torch.float16):
        return "FlashInfer needs bfloat16 or float16"
    if shape.head_dim not in _HEAD_DIMS:
        return f"FlashInfer has no kernels for heads of {shape.head_dim}"
    if shape.heads > _MOST_HEADS:
        return f"FlashInfer merges at most {_MOST_HEADS} heads, the model has {shape.heads}"
    return None


def nothing_compiled() -> bool:
    """Whether FlashInfer has no kernels at all here: seen without importing it, which takes a second."""
    package = find_spec("flashinfer")
    if package is None or package.origin is None or find_spec("flashinfer_jit_cache") is not None:
        return package is None
    base = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE") or Path.home(), ".cache", "flashinfer")
    folders = base, Path(package.origin).parent / "data" / "aot"
    return not any(True for folder in folders for _ in folder.rglob("*.so"))


def is_compiled(shape: AttentionShape, dtype: torch.dtype) -> bool:
    """Whether the kernels for this shape are there, so that a start need not wait for a compiler."""
    from flashinfer.jit import gen_batch_prefill_module
    from flashinfer.jit.cascade import gen_cascade_module

    d = shape.head_dim
    specs = [
        gen_batch_prefill_module(
            "fa2", dtype, dtype, dtype, torch.int32, d, d, 0, window is not None, False, False
        )
        for window in dict.fromkeys(shape.windows)
    ]
    return all(spec.is_compiled for spec in (*specs, gen_cascade_module()))


class FlashInferAttention:
    """An `AttentionBackend` and a `FusedAttend`. A level more costs as much as reading `level_cost` bytes.

    Raises `ModelLoadError` where FlashInfer is missing or has no kernel for the model.
    """

    def __init__(
        self, shape: AttentionShape, store: KVStore, *, most_levels: int = 4, level_cost: int = LEVEL_COST
    ) -> None:
        if reason := unusable(shape, store.dtype):
            raise ModelLoadError(f"attention_backend flashinfer: {reason}")
        self.shape, self.store = shape, store
        self.most_levels, self.level_cost = most_levels, level_cost
        self.page_bytes = 2 * shape.kv_heads * shape.head_dim * store.page_size * store.dtype.itemsize
        self.kv = [self._paged(layer) for layer in store.layers]
        self.workspace = torch.zeros(_WORKSPACE, dtype=torch.uint8, device=store.device)
        self.wrappers: dict[tuple[int | None, int], Any] = {}
        self.planned: dict[int | None, list[Any]] = {}
        self.places: Tensor | None = None
        self._copied = torch.cuda.Event()

    def _paged(self, layer: Tensor) -> tuple[Tensor, Tensor]:
        """K and V of a layer as FlashInfer's `[pages, kv_heads, page_size, d]`, without the guards."""
        size, guard = self.store.page_size, int(self.store.canaries)
        pages = layer.view(layer.shape[0], self.store.num_pages, -1, layer.shape[-1])
        k, v = pages[:, :, guard : guard + size].transpose(0, 1).chunk(2, 1)
        return k, v

    def plan(self, batch: ForwardBatch) -> None:
        """Levels of the batch's tree; where a layer has a window, rows are read one by one instead."""
        # A plan is staged in pinned memory that the copy of the one before may still be reading.
        self._copied.synchronize()
        self.planned = {}
        for window in dict.fromkeys(self.shape.windows):
            most = self.most_levels if window is None else 1
            levels = levels_of(batch.ints, self.store.page_size, self.page_bytes, most, self.level_cost)
            self.planned[window] = []
            for depth, level in enumerate(reversed(levels)):
                wrapper = self._wrapper(window, depth)
                starts, page_starts, pages, last = (
                    torch.tensor(column, dtype=torch.int32)
                    for column in (level.tokens, level.page_starts, level.pages, level.last_page)
                )
                wrapper.plan(
                    starts,
                    page_starts,
                    pages,
                    last,
                    self.shape.heads,
                    self.shape.kv_heads,
                    self.shape.head_dim,
                    self.store.page_size,
                    causal=depth == 0,
                    sm_scale=self.shape.scale,
                    window_left=-1 if window is None else window - 1,
                    q_data_type=self.store.dtype,
                    kv_data_type=self.store.dtype,
                    non_blocking=False,
                )
                self.planned[window].append(wrapper)
        self._copied.record()
        self.places = self.store.places(batch.slots)

    def _wrapper(self, window: int | None, depth: int) -> Any:
        """What keeps the plan of one level; levels run one after another and share the workspace."""
        if (window, depth) not in self.wrappers:
            from flashinfer import BatchPrefillWithPagedKVCacheWrapper

            made = BatchPrefillWithPagedKVCacheWrapper(self.workspace, "HND", backend="fa2")
            self.wrappers[window, depth] = made
        return self.wrappers[window, depth]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v `[T, kv_heads, d]`, then attend q `[T, heads, d]` causally: `[T, heads * d]`."""
        assert self.places is not None
        self.store.layers[layer].index_copy_(1, self.places, torch.cat((k, v), 1).transpose(0, 1))
        return self.run_stored(layer, q)

    __call__ = attend

    def attend_products(
        self,
        layer: int,
        qkv: Tensor,
        positions: Tensor,
        rotations: Tensor,
        head_norm: Tensor | None,
        eps: float,
    ) -> Tensor:
        """See `FusedAttend`: rotate queries, rotate and store keys, store values, attend."""
        assert self.places is not None
        q = rotate_and_store(
            self.shape, self.store.layers[layer], qkv, positions, self.places, rotations, head_norm, eps
        )
        return self.run_stored(layer, q)

    def target(self, layer: int) -> tuple[Tensor, Tensor]:
        """See `FusedAttend`."""
        assert self.places is not None
        return self.store.layers[layer], self.places

    def run_stored(self, layer: int, q: Tensor) -> Tensor:
        """Attend over what is stored; q `[T, heads * d]` or `[T, heads, d]` -> `[T, heads * d]`."""
        from flashinfer import merge_state_in_place

        own, *shared = self.planned[self.shape.windows[layer]]
        q = q.reshape(q.shape[0], self.shape.heads, self.shape.head_dim)
        out = torch.empty_like(q)
        if not shared:
            own.run(q, self.kv[layer], out=out)
            return out.flatten(1)
        _, weight = own.run(q, self.kv[layer], out=out, return_lse=True)
        for level in shared:
            more, more_weight = level.run(q, self.kv[layer], return_lse=True)
            merge_state_in_place(out, weight, more, more_weight)
        return out.flatten(1)
