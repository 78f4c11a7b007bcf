# mypy: disable-error-code="no-untyped-call"
"""`CudaRunner`: small steps as replays of CUDA graphs, one per number of tokens, for trees of any shape.

A graph reads tokens, positions, places and the attention's plan from fixed addresses. It does not know
rows: that is the plan's business, so a short prompt beside decoding rows replays the same graph. The plan
is made anew when the tree changes or a row outgrows the pages set aside for it; in between a step is one
copy of a few integers to the device and one replay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.attention import AttentionShape
from dendrite_core.forward.batch import ForwardBatch, feed
from dendrite_core.forward.cuda.attention_tree import Step, TreeAttention
from dendrite_core.forward.cuda.choice import choose
from dendrite_core.forward.cuda.device_plan import Capacity, DevicePlan
from dendrite_core.forward.kv_store import KVStore
from dendrite_core.forward.runner import Runner
from dendrite_core.models.decoder import Decoder
from dendrite_core.models.loading import LoadedModel

log = logging.getLogger("dendrite.engine")

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_SHORT_PROMPT = 256
# Graphs of more tokens are captured at their first step. Not while there is no work: what another thread asks
# of the device meanwhile breaks a capture off.
_AT_START = 64
_SPARE_PAGES = 16
_STAGES = 4
# One step is in flight when the next is planned, and both may have plans of their own.
_PLANS = 2

_Key = tuple[int, bool, bool, tuple[int, int, int], bool]
"""Tokens; whether the plan has narrow items, wide ones; how results are joined, and whether there are any."""


_Recorded = Callable[[], Tensor]
"""A step over what lies at the fixed addresses: `[bucket, vocab]` logits, which the next one overwrites."""


class _Lent:
    """A tensor's memory without holding it: graphs of one pool may then all put their results there."""

    def __init__(self, tensor: Tensor) -> None:
        self.__cuda_array_interface__ = tensor.__cuda_array_interface__


class _Inputs:
    """Integers of a step at fixed places, by token: tokens, positions, places; by row: its last page.

    `grown` is by how many tokens rows grew since the plan was made, the same for all.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        on_gpu = device.type == "cuda"
        self.buffer = torch.zeros(6, rows, dtype=torch.int32, device=device)
        self.tokens, self.positions, self.places, self.page_at, self.page, self.grown = self.buffer.unbind(0)
        self.staging = [torch.zeros(6, rows, dtype=torch.int32, pin_memory=on_gpu) for _ in range(_STAGES)]
        self.copied = [torch.cuda.Event() if on_gpu else None for _ in range(_STAGES)]
        self.turn = 0

    def load(self, columns: Sequence[Sequence[int]], rows: int, grown: int) -> None:
        """Copy five columns of `rows` integers; what lies beyond are tokens computed for nothing."""
        self.turn = (self.turn + 1) % _STAGES
        copied = self.copied[self.turn]
        if copied is not None:
            copied.synchronize()
        staging = self.staging[self.turn].numpy()
        staging[:5, :rows], staging[5] = columns, grown
        staging[0:2, rows:], staging[2, rows:], staging[3:5, rows:] = 0, -1, staging[3:5, rows - 1 : rows]
        self.buffer.copy_(self.staging[self.turn], non_blocking=True)
        if copied is not None:
            copied.record()


class CudaRunner(Runner):
    """Steps of few tokens by graph, larger ones as they come."""

    def __init__(
        self, model: LoadedModel, store: KVStore, attention: TreeAttention, max_rows: int = _SHORT_PROMPT
    ) -> None:
        super().__init__(model, store, attention)
        self.tree = attention
        self.device = store.device
        self.max_rows = max_rows = max(rows for rows in BUCKETS if rows <= max_rows)
        shape = attention.shape
        self.capacity = Capacity(
            narrow=4096 + 16 * max_rows,
            wide=4096,
            queries=32 * max_rows + 8192,
            pages=store.num_pages + max_rows * (_SPARE_PAGES + 1),
            tokens=max_rows,
            slots=4096 + 8 * max_rows,
        )
        self.static = DevicePlan(self.capacity, shape.heads, shape.head_dim, store.device, stages=_PLANS)
        self.inputs = {rows: _Inputs(rows, store.device) for rows in BUCKETS if rows <= max_rows}
        self.graphs: dict[_Key, _Recorded] = {}
        if self.device.type == "cuda":
            self.pool = torch.cuda.graph_pool_handle()
            self.capturing = torch.cuda.Stream(store.device)
        self.plans = 0
        self._planned = -1
        self._length = 0
        self._tails: list[int] = []
        self._limits: list[int] = []

    @torch.inference_mode()
    def run(self, batch: Batch, tokens: Tensor | None = None) -> Tensor:
        """Logits `[len(batch.logits_at), vocab]` in the activations' type, valid until the next step.

        `tokens` int32 `[D]` on the device are the draws of the step before, which then need not have reached
        the CPU; where they belong says `batch.unread`.
        """
        if len(batch.token_ids) <= self.max_rows and self._follow(batch):
            return self._replay(batch, tokens)
        self._planned = -1
        return self._eager(batch, tokens)

    @torch.inference_mode()
    def prepare(self, *, largest: bool = False) -> None:
        """Capture the largest graph, whose memory all share, and unless that is all, those of few tokens.

        Without memory, where nothing is captured but what is launched can be seen, they are all of them.
        """
        started, plan, seen = time.perf_counter(), self.static, self.device.type == "meta"
        ran: set[object] = set()
        for bucket, wide, slots in self._expected():
            if self.graphs and not seen and bucket > _AT_START:
                continue
            plan.has_narrow, plan.has_wide, plan.most_slots, plan.merges = True, wide, slots, slots > 0
            inputs, key = self.inputs[bucket], self._key(bucket)
            inputs.places.fill_(-1)
            # Kernels differ by the number of tokens and by the kind of plan, not by their combination.
            kinds = {bucket, key[1:]}
            self.graphs[key] = self._capture(inputs, first=not kinds <= ran)
            ran |= kinds
            if largest:
                return
        if self.device.type == "cuda":
            log.info("captured %d graphs in %.1f s", len(self.graphs), time.perf_counter() - started)

    def _expected(self) -> Iterator[tuple[int, bool, int]]:
        """(bucket, whether there are wide items, slots of a query), largest first."""
        for bucket in reversed(self.inputs):
            tiles = self.tree.tiles(bucket)
            slots = {self.tree.merge_tile(bucket, many): many for many in (16, 1)}.values()
            if tiles.wide and bucket > tiles.per_tile(tiles.narrow):
                yield from product([bucket], [True], slots)
            yield from product([bucket], [False], [*slots, 0])

    def _eager(self, batch: Batch, tokens: Tensor | None) -> Tensor:
        forward = ForwardBatch.build(batch, self.device)
        if tokens is not None:
            feed(forward.token_ids, batch, tokens)
        self.store.copy_pages(batch.copies)
        self.tree.plan(forward)
        hidden = self.decoder(forward.token_ids, forward.positions, self.tree)
        if forward.logits_at is not None:
            hidden = hidden.index_select(0, forward.logits_at)
        return self.decoder.logits(hidden)

    def _replay(self, batch: Batch, tokens: Tensor | None) -> Tensor:
        rows = len(batch.token_ids)
        bucket = next(size for size in self.inputs if size >= rows)
        inputs = self.inputs[bucket]
        self.store.copy_pages(batch.copies)
        columns = (batch.token_ids, batch.positions, self._places(batch), *self._new_pages(batch))
        inputs.load(columns, rows, batch.kv_lengths[0] - self._length)
        if tokens is not None:
            feed(inputs.tokens, batch, tokens)
        key = self._key(bucket)
        if key not in self.graphs:
            self.graphs[key] = self._capture(inputs, first=True)
        logits = self.graphs[key]()
        if batch.logits_at == list(range(rows)):
            return logits[:rows]
        wanted = torch.tensor(batch.logits_at, dtype=torch.int64, pin_memory=logits.is_cuda)
        return logits.index_select(0, wanted.to(self.device, non_blocking=True))

    def _key(self, bucket: int) -> _Key:
        plan = self.static
        tile = self.tree.merge_tile(bucket, plan.most_slots)
        return (bucket, plan.has_narrow, plan.has_wide, tile, plan.merges)

    def _capture(self, inputs: _Inputs, *, first: bool) -> _Recorded:
        """Record the step. The `first` of its kind also runs, which has its kernels compiled and loaded; that
        writes the same K and V to the same places as the replay.
        """
        if self.device.type == "meta":
            # Nothing is computed without memory, but what is launched can be seen.
            self._step(inputs)
        if self.device.type != "cuda":
            # Where Triton's interpreter stands in for a device the step is run as it is.
            return partial(self._step, inputs)
        graph = torch.cuda.CUDAGraph()
        self.capturing.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.capturing):
            if first:
                self._step(inputs)
            torch.cuda.synchronize(self.device)
            # Not `torch.cuda.graph`, which gives all cached memory back each time.
            graph.capture_begin(pool=self.pool)
            try:
                logits = self._step(inputs)
            finally:
                graph.capture_end()
        # The interface has no name for bfloat16.
        lent = torch.as_tensor(_Lent(logits.view(torch.int16)), device=self.device).view(logits.dtype)

        def replay() -> Tensor:
            graph.replay()
            return lent

        return replay

    def _step(self, inputs: _Inputs) -> Tensor:
        self.tree.grow(self.static, inputs.page_at, inputs.page, inputs.grown)
        self.tree.step = Step(self.static, inputs.positions, inputs.places)
        hidden = self.decoder(inputs.tokens, inputs.positions, self.tree)
        return self.decoder.logits(hidden)

    def _places(self, batch: Batch) -> Sequence[int]:
        if not self.store.canaries:
            return batch.slots
        size = self.store.page_size
        return [slot + 2 * (slot // size) + 1 for slot in batch.slots]

    def _follow(self, batch: Batch) -> bool:
        """Make the plan on the device fit this batch; False if it is too large for it."""
        known = batch.topology != 0 and batch.topology == self._planned and len(self._tails) == batch.rows
        if known and batch.is_decode and all(map(int.__le__, batch.kv_lengths, self._limits)):
            return True
        work = self.tree.work_of(batch, _SPARE_PAGES)
        if not self.capacity.holds(work):
            return False
        self.static.load(work)
        self.plans += 1
        self._planned = batch.topology if batch.is_decode else -1
        self._length = batch.kv_lengths[0]
        self._tails = work.tail_pages.tolist()
        self._limits = work.room.tolist()
        if (grid := self.tree.grid) is not None:
            cuts = [-(-length // grid) * grid for length in batch.kv_lengths]
            self._limits = list(map(min, self._limits, cuts))
        return True

    def _new_pages(self, batch: Batch) -> tuple[list[int], list[int]]:
        """For each row where in the plan its last page belongs, and which it is; repeated for each token."""
        size = self.store.page_size
        at = [(length - 1) // size for length in batch.kv_lengths]
        pages = [table[index] for table, index in zip(batch.page_tables, at, strict=True)]
        places = [tail + index for tail, index in zip(self._tails, at, strict=True)]
        more = len(batch.token_ids) - batch.rows
        return places + places[-1:] * more, pages + pages[-1:] * more


def cuda_runner(
    model: LoadedModel, store: KVStore, shape: AttentionShape, attention_backend: str, max_rows: int
) -> Runner:
    """The runner for a CUDA device: the fused pass by graph, any other as it comes.

    Steps of up to `max_rows` tokens are replayed, and with few rows short prompts still are.
    """
    attention = choose(attention_backend, shape, store)
    if isinstance(attention, TreeAttention) and isinstance(model.decoder, Decoder) and model.decoder.is_fused:
        return CudaRunner(model, store, attention, max(max_rows, _SHORT_PROMPT))
    return Runner(model, store, attention)
