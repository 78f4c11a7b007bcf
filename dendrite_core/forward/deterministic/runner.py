"""`FixedRunner`: every step as passes over exactly `block` tokens, whatever the batch.

Products, norms and activations choose how they add by the shape of what they are given. So they are always
given the same shape: a batch is cut into blocks of tokens, the last one filled up with repetitions that are
not stored. `prove` shows at start that a row's place in a block does not matter on this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import spans
from dendrite_core.errors import ModelLoadError
from dendrite_core.forward.attention import AttentionBackend, AttentionShape
from dendrite_core.forward.batch import ForwardBatch, feed
from dendrite_core.forward.deterministic import grid
from dendrite_core.forward.deterministic.grid import GridAttention
from dendrite_core.forward.kv_store import KVStore
from dendrite_core.forward.runner import Runner
from dendrite_core.models.decoder import Attend
from dendrite_core.models.loading import LoadedModel

CPU_BLOCK = 16
CUDA_BLOCK = 64


class FixedRunner(Runner):
    """A `Runner` whose logits of a token depend on the tokens before it alone, bit for bit."""

    def __init__(
        self, model: LoadedModel, store: KVStore, attention: AttentionBackend, attend: Attend, block: int
    ) -> None:
        super().__init__(model, store, attention)
        self.attend = attend
        self.block = block
        self.vocab_size = model.config.vocab_size
        self.prove()

    @torch.inference_mode()
    def run(self, batch: Batch, tokens: Tensor | None = None) -> Tensor:
        """Float32 logits `[len(batch.logits_at), vocab]`; see `Runner.run`. `tokens` are waited for."""
        if tokens is not None:
            token_ids = torch.tensor(batch.token_ids, device=self.store.device)
            feed(token_ids, batch, tokens)
            batch.token_ids = token_ids.tolist()
        self.store.copy_pages(batch.copies)
        hidden = torch.cat([self._hidden(piece) for piece in blocks(batch, self.block)])
        wanted = torch.tensor(batch.logits_at, dtype=torch.int64, device=hidden.device)
        return self._logits(hidden.index_select(0, wanted))

    def _hidden(self, piece: Batch) -> Tensor:
        forward = ForwardBatch.build(piece, self.store.device)
        self.attention.plan(forward)
        # Cloned, as a decoder may hand out a buffer of its own.
        return self.decoder(forward.token_ids, forward.positions, self.attend).clone()

    def _logits(self, hidden: Tensor) -> Tensor:
        count = hidden.shape[0]
        filled = torch.nn.functional.pad(hidden, (0, 0, 0, -count % self.block))
        places = range(0, len(filled), self.block)
        logits = [self.decoder.logits(filled[at : at + self.block]) for at in places]
        return torch.cat(logits)[:count] if logits else hidden.new_empty(0, self.vocab_size)

    @torch.inference_mode()
    def prove(self) -> None:
        """Compute a block in two orders and with other neighbours. Raises `ModelLoadError` if bits move."""
        step = 3 if self.block % 3 else 1
        turned = [(place * step + 5) % self.block for place in range(self.block)]
        mixed = [place if place % 2 else place + self.block for place in range(self.block)]
        first, second, third = (self._alone(order) for order in (range(self.block), turned, mixed))
        if not torch.equal(first[turned], second) or not torch.equal(first[1::2], third[1::2]):
            raise ModelLoadError(
                "deterministic mode cannot be kept here: this model or this build of torch computes a row "
                "differently by its place in a batch or its neighbours; a power of two as --threads may help"
            )

    def _alone(self, numbers: Iterable[int]) -> Tensor:
        """Logits of a block of first tokens, none of them stored."""
        tokens = [number * 7 % self.vocab_size for number in numbers]
        rows = len(tokens)
        tables: list[Sequence[int]] = [[0]] * rows
        batch = Batch(
            token_ids=tokens,
            positions=[0] * rows,
            slots=[-1] * rows,
            row_starts=list(range(rows + 1)),
            kv_lengths=[1] * rows,
            page_tables=tables,
            spans=spans(tables),
            copies=[],
            logits_at=list(range(rows)),
        )
        return self._logits(self._hidden(batch))


def fixed_runner(model: LoadedModel, store: KVStore, shape: AttentionShape) -> FixedRunner:
    """The runner of the deterministic mode on the model's device. Raises `ModelLoadError`; see `prove`."""
    if model.config.experts:
        raise ModelLoadError(
            "deterministic mode does not go with a mixture of experts: how many rows an expert gets together "
            "depends on the batch"
        )
    if store.device.type == "cpu":
        cells = GridAttention(shape, store)
        return FixedRunner(model, store, cells, cells.attend, CPU_BLOCK)
    # Triton is there only where CUDA is.
    from dendrite_core.forward.cuda.attention_tree import TreeAttention

    tree = TreeAttention(shape, store, grid=grid.CELL)
    return FixedRunner(model, store, tree, tree, CUDA_BLOCK)


def blocks(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch as batches of exactly `size` tokens, in order; the last token is repeated to fill the last.

    Repetitions are rows of their own, which write nothing (their slot is -1). Logits are not asked for.
    """
    row = 0
    for first in range(0, len(batch.token_ids), size):
        end = min(first + size, len(batch.token_ids))
        starts, rows = [0], []
        while starts[-1] < end - first:
            rows.append(row)
            starts.append(min(batch.row_starts[row + 1], end) - first)
            row += batch.row_starts[row + 1] <= end
        fill = size - (end - first)
        rows += rows[-1:] * fill
        starts += range(starts[-1] + 1, starts[-1] + 1 + fill)
        tables = [batch.page_tables[which] for which in rows]
        positions = batch.positions[first:end]
        positions += positions[-1:] * fill
        yield Batch(
            token_ids=batch.token_ids[first:end] + batch.token_ids[end - 1 : end] * fill,
            positions=positions,
            slots=batch.slots[first:end] + [-1] * fill,
            row_starts=starts,
            kv_lengths=[positions[start - 1] + 1 for start in starts[1:]],
            page_tables=tables,
            spans=spans(tables),
            copies=[],
            logits_at=list(range(size)),
        )
