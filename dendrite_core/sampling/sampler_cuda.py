# mypy: disable-error-code="no-untyped-call"
"""`CudaSampler`: the `Sampler` with its draws in two launches, and the tokens left on the device if wanted.

Filters (top_k, top_p, min_p) go the general way; what is drawn depends on the row, its parameters and its
(seed, stream, position) alone, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw
from dendrite_core.sampling.sampler import Sampler
from dendrite_core.sampling.seeding import uniforms

_BLOCK = 2048
_GREEDY_BELOW = 1e-5


class CudaSampler(Sampler):
    """Draws on a CUDA device."""

    def __init__(self, vocab_size: int, device: str | torch.device) -> None:
        super().__init__(vocab_size, device)
        # Triton is there only where CUDA is.
        from dendrite_core.sampling import draw_kernel

        self.kernel = draw_kernel
        self.blocks = -(-vocab_size // _BLOCK)
        self.most = 1 << (self.blocks - 1).bit_length()

    def tokens(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        """int32 `[D]` on the device, for draws that change nothing in `logits [D, V]`; nothing is awaited."""
        rows = len(draws)
        numbers = uniforms([(draw.seed, draw.stream, draw.position) for draw in draws])
        heats = [draw.params.temperature for draw in draws]
        inverses = [0.0 if heat < _GREEDY_BELOW else 1.0 / heat for heat in heats]
        columns = torch.tensor([numbers, inverses], dtype=torch.float64, pin_memory=True)
        on_device = columns.to(self.device, non_blocking=True)
        return self._draw(logits, on_device[0], on_device[1].float(), rows)

    def _draw(self, logits: Tensor, numbers: Tensor, inverses: Tensor, rows: int) -> Tensor:
        highest, sums = torch.empty(2, rows, self.blocks, device=self.device)
        best = torch.empty(rows, self.blocks, dtype=torch.int32, device=self.device)
        found = torch.empty(rows, dtype=torch.int32, device=self.device)
        self.kernel.block_sums[(rows, self.blocks)](
            logits, logits.stride(0), inverses, highest, best, sums, self.vocab_size, self.blocks, _BLOCK,
            num_warps=4,
        )  # fmt: skip
        self.kernel.choose[(rows,)](
            logits, logits.stride(0), inverses, numbers, highest, best, sums, found, self.vocab_size,
            self.blocks, _BLOCK, self.most, num_warps=4,
        )  # fmt: skip
        return found

    def _choose(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        filtered = any(d.params.top_k is not None or d.params.top_p < 1.0 or d.params.min_p for d in draws)
        return super()._choose(logits, draws) if filtered else self.tokens(logits, draws)
