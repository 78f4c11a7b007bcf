# mypy: disable-error-code="no-untyped-call"
"""`TreeAttention`: attention of any batch over a tree of K and V, as one work list and one merge.

Prefill, decode and a mix of both are the same list: a query is a token of the step, and what it may see is
said by its position. Wide items run beside narrow ones on a second stream, so that what is bound by
arithmetic and what is bound by memory share every multiprocessor.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.device_plan import DevicePlan, fresh
from dendrite_core.forward.cuda.work_list import Tiles, plan
from dendrite_core.forward.kv_store import KVStore
from dendrite_core.models.cuda.card import card_of

log = logging.getLogger("dendrite.forward")

_HEADS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Step:
    """What the layers of one step share: the plan, and where each token is and goes (below 0: nowhere).

    stored: how many tokens, the first ones, go anywhere; None for all, or where nobody asks.
    """

    plan: DevicePlan
    positions: Tensor
    places: Tensor
    stored: int | None = None


def rotate_and_store(
    shape: AttentionShape,
    keys: Tensor,
    qkv: Tensor,
    positions: Tensor,
    places: Tensor,
    rotations: Tensor,
    head_norm: Tensor | None,
    eps: float,
) -> Tensor:
    """Rotate and store keys and values in one layer of the store; rotated queries `[T, heads * d]`."""
    from dendrite_core.models.cuda import kernels

    pdl = card_of(keys.device).early
    heads, (tokens, width) = shape.heads + 2 * shape.kv_heads, qkv.shape[-2:]
    q = torch.empty(tokens, shape.heads * shape.head_dim, dtype=keys.dtype, device=keys.device)
    kernels.rotate_and_store[(tokens, -(-heads // _HEADS_AT_ONCE))](
        qkv, q, positions, places, rotations, qkv if head_norm is None else head_norm,
        keys, keys.stride(0), eps,
        shape.heads, shape.kv_heads, shape.head_dim, _HEADS_AT_ONCE, padded(shape.head_dim),
        qkv.numel() // (tokens * width), head_norm is not None, pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
    return q


def padded(head_dim: int) -> int:
    """The power of two that a tile of heads is wide."""
    return max(16, 1 << (head_dim - 1).bit_length())


class TreeAttention:
    """An `AttentionBackend` and a `FusedAttend`. `grid` makes results independent of the other rows."""

    def __init__(self, shape: AttentionShape, store: KVStore, *, grid: int | None = None) -> None:
        from dendrite_core.forward.cuda import tree_kernels

        self.shape, self.store, self.grid = shape, store, grid
        self.tree = tree_kernels
        self.half = store.dtype in (torch.bfloat16, torch.float16)
        self.card = card_of(store.device)
        self.wide_kernel: Any = None
        self.described: list[Any] = []
        if self.card.wgmma and self.half:
            from dendrite_core.forward.cuda import wide_kernel

            if wide_kernel.takes(shape.head_dim, store.page_size):
                self.wide_kernel = wide_kernel
                self.described = [wide_kernel.described(layer, store.page_size) for layer in store.layers]
        self.block_d = padded(shape.head_dim)
        # On a CPU Triton's interpreter runs the same kernels, one after another.
        self.side = torch.cuda.Stream(store.device) if store.device.type == "cuda" else None
        self.step: Step | None = None

    def _stages(self, rows: int, tokens: int, most: int, taken: int = 0) -> int:
        """Steps of K and V that fit into a program's shared memory beside its queries, `most` at most."""
        width = self.block_d * self.store.dtype.itemsize
        return self.card.stages(most, 2 * tokens * width, rows * width + taken)

    def tiles(self, queries: int) -> Tiles:
        """How a step of so many queries is cut."""
        narrow = max(16, 1 << (self.shape.group - 1).bit_length())
        wide, tokens = (128, 64) if self.half else (64, 32)
        if self.grid is not None or narrow >= wide or not self._stages(wide, tokens, 1):
            wide = 0
        return Tiles(
            self.shape.group,
            self.shape.kv_heads,
            self.store.page_size,
            narrow=narrow,
            wide=wide,
            tokens=tokens,
            wide_tokens=self.wide_kernel.sizes(queries)[1] if self.wide_kernel else tokens,
            programs=self._narrow_tile(queries)[2],
            grid=self.grid,
        )

    def plan(self, batch: ForwardBatch) -> None:
        work = plan(batch.ints, self.tiles(len(batch.ints.token_ids)))
        loaded = fresh(work, self.shape.heads, self.shape.head_dim, self.store.device)
        slots = batch.ints.slots
        stored = None if slots[-1] >= 0 else sum(slot >= 0 for slot in slots)
        self.step = Step(loaded, batch.positions, self.store.places(batch.slots), stored)

    def grow(self, plan: DevicePlan, page_at: Tensor, page: Tensor, grown: Tensor) -> None:
        """Tell a plan the last page of every row, and by how much rows grew since it was made."""
        count = len(page)
        # Fewer than there are threads are not faster, but one kernel more to compile.
        block = max(128, 1 << (count - 1).bit_length())
        self.tree.grow[(1,)](plan.pages, plan.counts, page_at, page, grown, count, block, num_warps=4)

    def work_of(self, batch: Batch, spare: int) -> Any:
        """The work list of a small step; one of decoding rows will be used again while they grow."""
        return plan(batch, self.tiles(len(batch.token_ids)), spare)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v `[T, kv_heads, d]`, then attend q `[T, heads, d]` causally: `[T, heads * d]`."""
        assert self.step is not None
        kv, places = torch.cat((k, v), 1), self.step.places
        if (stored := self.step.stored) is not None:
            kv, places = kv[:stored], places[:stored]
        self.store.layers[layer].index_copy_(1, places, kv.transpose(0, 1))
        return self.run_stored(layer, q.flatten(1) if q.is_contiguous() else q.reshape(q.shape[0], -1))

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
        assert self.step is not None
        q = rotate_and_store(
            self.shape, self.store.layers[layer], qkv, positions, self.step.places, rotations, head_norm, eps
        )
        return self.run_stored(layer, q)

    def target(self, layer: int) -> tuple[Tensor, Tensor]:
        """See `FusedAttend`."""
        assert self.step is not None
        return self.store.layers[layer], self.step.places

    def run_stored(self, layer: int, q: Tensor) -> Tensor:
        """Attend over what is stored; q: rows of at least `heads * d` numbers -> `[T, heads * d]`."""
        assert self.step is not None
        plan, window = self.step.plan, self.shape.windows[layer]
        out = q.new_empty(q.shape[0], self.shape.heads * self.shape.head_dim)
        if plan.has_wide and plan.has_narrow and self.side is not None:
            current = torch.cuda.current_stream()
            self.side.wait_stream(current)
            self._narrow(layer, q, out, window)
            with torch.cuda.stream(self.side):
                self._wide(layer, q, out, window)
            current.wait_stream(self.side)
        else:
            if plan.has_narrow:
                self._narrow(layer, q, out, window)
            if plan.has_wide:
                self._wide(layer, q, out, window)
        if plan.merges:
            at_once, heads, warps = self.merge_tile(q.shape[0], plan.most_slots)
            pdl = self.card.early and not plan.has_wide
            self.tree.merge[(q.shape[0], -(-self.shape.heads // heads))](
                plan.slot_starts, plan.partial, plan.partial_lse, out, out.stride(0),
                self.shape.heads, self.shape.head_dim, self.block_d, at_once, heads, pdl,
                num_warps=warps, launch_pdl=pdl,
            )  # fmt: skip
        return out

    def merge_tile(self, queries: int, most: int) -> tuple[int, int, int]:
        """Results joined at once, heads and warps of a program, as measured; `most` are a query's results.

        On a grid it is always the same, as it changes rounding.
        """
        if self.grid is not None or (queries <= 8 and most > 4):
            return 16, 1, 2
        return (4, 1, 1) if queries <= 32 else (4, 4, 1)

    def _results(self, out: Tensor) -> tuple[Any, ...]:
        """Where kernels write to, and the scale of scores that are powers of 2."""
        assert self.step is not None
        plan, scale = self.step.plan, self.shape.scale * math.log2(math.e)
        return out, out.stride(0), plan.partial, plan.partial_lse, scale

    def _pages(self) -> tuple[int, int, int]:
        """Tokens of a page, places of a page, and the places before its first token."""
        size = self.store.page_size
        return (size, size + 2, 1) if self.store.canaries else (size, size, 0)

    def _wide(self, layer: int, q: Tensor, out: Tensor, window: int | None) -> None:
        assert self.step is not None
        plan, shape = self.step.plan, self.shape
        if self.wide_kernel is not None and window is None:
            try:
                self.wide_kernel.attend_wide[(132,)](
                    plan.counts, plan.wide, plan.query_slots, plan.pages, self.step.positions,
                    self.described[layer], self.store.layers[layer].shape[1],
                    q, q.stride(0), *self._results(out),
                    shape.heads, shape.group, shape.head_dim, *self._pages(),
                    *self.wide_kernel.sizes(q.shape[0]), num_warps=4,
                )  # fmt: skip
                return
            except self.tree.CompilationError as error:
                # Gluon is still changing from one Triton to the next.
                log.warning("attention: plain wide tiles, as this Triton does not take Hopper's: %s", error)
                self.wide_kernel = None
        rows, tokens, most = (128, 64, 3) if self.half else (64, 32, 2)
        tile = (rows, tokens, self._stages(rows, tokens, most))
        self._plain(layer, q, out, window, 132, (0, 64, 2), tile, False, 8, {})

    def _narrow(self, layer: int, q: Tensor, out: Tensor, window: int | None) -> None:
        tiles = self.tiles(q.shape[0])
        stages, registers, _ = self._narrow_tile(q.shape[0])
        # One step fewer than there are stages lies in shared memory, and the pages of the next.
        stages = 1 + self._stages(tiles.narrow, tiles.tokens, stages - 1, 8192)
        tile = (tiles.narrow, tiles.tokens, stages)
        options = {"maxnreg": registers} if registers and self.shape.head_dim <= 128 else {}
        self._plain(
            layer, q, out, window, tiles.programs, tile, (0, tiles.tokens, 2), self.card.early, 4, options
        )

    def _narrow_tile(self, queries: int) -> tuple[int, int | None, int]:
        """Stages, registers of a thread and programs, as measured.

        Few rows are a link of a chain: what a program takes of a multiprocessor, the next product cannot
        begin in. Some are bound by how much of an item is in flight, many by how many items are.
        """
        if not self.half:
            return 4, None, 396
        return (3, 168, 396) if 8 < queries <= 16 else (2, 128, 528)

    def _plain(
        self,
        layer: int,
        q: Tensor,
        out: Tensor,
        window: int | None,
        programs: int,
        narrow: tuple[int, int, int],
        wide: tuple[int, int, int],
        pdl: bool,
        warps: int,
        options: dict[str, int],
    ) -> None:
        assert self.step is not None
        plan, shape, keys = self.step.plan, self.shape, self.store.layers[layer]
        self.tree.attend[(programs,)](
            plan.counts, plan.narrow, plan.wide, plan.query_slots, plan.pages, self.step.positions,
            q, q.stride(0), keys, keys[shape.kv_heads :], keys.stride(0), *self._results(out), window or 0,
            shape.heads, shape.group, shape.head_dim, self.block_d, *self._pages(), *narrow, *wide,
            window is not None, "ieee" if not self.half else "tf32", pdl,
            num_warps=warps, launch_pdl=pdl, **options,
        )  # fmt: skip
