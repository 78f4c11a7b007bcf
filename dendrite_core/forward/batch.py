"""`ForwardBatch`: a `Batch` as tensors, built once per step from one buffer of integers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dendrite_core.batching.batch import Batch


@dataclass(slots=True)
class ForwardBatch:
    """One step over R rows and T new tokens.

    token_ids, positions, slots: int64 `[T]`. logits_at: int64 `[n]`, or None when every token's logits are
    wanted in order, as in a decode step. `ints` is the batch it was made from.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    logits_at: Tensor | None
    ints: Batch

    @classmethod
    def build(cls, batch: Batch, device: torch.device) -> ForwardBatch:
        total = len(batch.token_ids)
        integers = batch.token_ids + batch.positions + batch.slots + batch.logits_at
        # From pageable memory the copy would wait for all that is queued on the device.
        buffer = torch.tensor(integers, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        token_ids, positions, slots, logits_at = torch.split_with_sizes(
            buffer, (total, total, total, len(batch.logits_at))
        )
        wants_all = batch.logits_at == list(range(total))
        return cls(token_ids, positions, slots, None if wants_all else logits_at, batch)

    @property
    def tokens(self) -> int:
        return len(self.ints.token_ids)


def feed(token_ids: Tensor, batch: Batch, drawn: Tensor) -> None:
    """Put the draws of the step before, `[D]` on the device, where `batch.unread` says.

    token_ids: `[>= T]` of any integer type. A batch that says nothing gets them from its first token on.
    """
    tokens = len(batch.token_ids)
    if not batch.unread or batch.follows_in_order:
        token_ids[:tokens].copy_(drawn[:tokens])
        return
    pairs = torch.tensor(batch.unread, pin_memory=drawn.is_cuda).to(drawn.device, non_blocking=True)
    token_ids.index_copy_(0, pairs[:, 0], drawn[pairs[:, 1]].to(token_ids.dtype))
