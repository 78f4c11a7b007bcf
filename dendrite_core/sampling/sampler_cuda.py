"""`CudaSampler`: the `Sampler` in a handful of launches; nothing is awaited until tokens are read.

    change, alter       only where a draw has a grammar, a bias, penalties or bans, or shares its logits;
                        what `allowed_token_ids` leave out goes by torch's own operators
    block_sums          greatest logit and sum of weights per block of the vocabulary
    find_cuts, again    only where a draw has top_k, top_p or min_p
    choose              the token, by one number per (seed, stream, position)

What is drawn depends on the row and its draw alone, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.penalties import TokenMasks, changes, keep_only, limited_rows
from dendrite_core.sampling.sampler import GREEDY_BELOW, Sampler
from dendrite_core.sampling.seeding import uniforms
from dendrite_core.sampling.transfers import send, upload

_BLOCK = 2048
_SEARCHED = 8192
_PLACES = 1024


@dataclass(frozen=True, slots=True)
class _Settings:
    """Parameters of draws as columns on the device: float32 `[D]`, top_k int32."""

    params: list[SamplingParams]
    inverses: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    filtered: bool


class CudaSampler(Sampler):
    """Draws on a CUDA device."""

    def __init__(self, vocab_size: int, device: str | torch.device) -> None:
        super().__init__(vocab_size, device)
        # Triton is there only where CUDA is.
        from dendrite_core.sampling import draw_kernel

        self.kernel = draw_kernel
        self.blocks = -(-vocab_size // _BLOCK)
        self.most = 1 << (self.blocks - 1).bit_length()
        self._known = self._columns([])

    def tokens(self, logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None = None) -> Tensor:
        """int32 `[D]` on the device, -1 for a draw that has nothing to draw from. logits: [R, V]"""
        rows, width = len(draws), self.vocab_size
        settings = self._settings(draws)
        keys = [(draw.seed, draw.stream, draw.position) for draw in draws]
        numbers = upload(uniforms(keys), torch.float64, self.device)
        logits = self._own(logits, draws, masks)
        highest, sums = torch.empty(2, rows, self.blocks, device=self.device)
        cuts, greatest = torch.empty(2, rows, device=self.device)
        best = torch.empty(rows, self.blocks, dtype=torch.int32, device=self.device)
        found = torch.empty(rows, dtype=torch.int32, device=self.device)
        row = (logits, logits.stride(0), settings.inverses)
        kept = (cuts, settings.min_p)
        summing = (*row, highest, best, sums, *kept, greatest, width, self.blocks, _BLOCK)
        self.kernel.block_sums[(rows, self.blocks)](*summing, False, num_warps=4)
        if settings.filtered:
            self.kernel.find_cuts[(rows,)](
                *row, settings.top_k, settings.top_p, highest, sums, cuts, greatest, self.blocks, width,
                _SEARCHED, self.most, num_warps=16,
            )  # fmt: skip
            self.kernel.block_sums[(rows, self.blocks)](*summing, True, num_warps=4)
        self.kernel.choose[(rows,)](
            *row, numbers, highest, best, sums, *kept, found, width, self.blocks, _BLOCK, self.most,
            settings.filtered, num_warps=4,
        )  # fmt: skip
        return found

    def _settings(self, draws: Sequence[Draw]) -> _Settings:
        """The columns of these draws; branches that go on keep theirs from step to step."""
        params = [draw.params for draw in draws]
        if params != self._known.params:
            self._known = self._columns(params)
        return self._known

    def _columns(self, params: list[SamplingParams]) -> _Settings:
        heats = [p.temperature for p in params]
        inverses = [0.0 if heat < GREEDY_BELOW else 1.0 / heat for heat in heats]
        floats = upload(
            [inverses, [p.top_p for p in params], [p.min_p for p in params]], torch.float32, self.device
        )
        top_k = upload([p.top_k or self.vocab_size for p in params], torch.int32, self.device)
        filtered = any(p.top_k is not None or p.top_p < 1.0 or p.min_p > 0.0 for p in params)
        return _Settings(params, floats[0], top_k, floats[1], floats[2], filtered)

    def _own(self, logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None) -> Tensor:
        """Every draw's own logits, `logits` itself in the usual case, else a copy. [R, V] -> [D, V]"""
        rows, width = [draw.logits_row for draw in draws], self.vocab_size
        changed, limited = changes(draws, width), limited_rows(draws)
        if masks is None and changed is None and not limited and rows == list(range(len(logits))):
            return logits
        own = self._scratch(0, len(draws))
        sources = upload(rows, torch.int32, self.device)
        bits = mask_rows = sources
        if masks is not None:
            bits = send(masks.bits, self.device)
            mask_rows = upload([-1 if row is None else row for row in masks.row_of], torch.int32, self.device)
        self.kernel.change[(len(draws), self.blocks)](
            logits, logits.stride(0), sources, bits, bits.shape[-1], mask_rows, own, width, _BLOCK,
            masks is not None, num_warps=4,
        )  # fmt: skip
        if changed is not None:
            places = send(torch.from_numpy(changed.places), self.device)
            values = send(torch.from_numpy(changed.values), self.device)
            self.kernel.alter[(-(-len(places) // _PLACES),)](
                own, places, values, len(places), _PLACES, num_warps=4
            )
        if limited:
            keep_only(own, draws, limited)
        return own
