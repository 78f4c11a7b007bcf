"""`CudaSampler`: the `Sampler` in a handful of launches; nothing is awaited until tokens are read.

    copy_rows, add_at, tally, penalise, forbid   what changes logits, each only where a draw asks for it
    block_sums          greatest logit and sum of weights per block of the vocabulary
    find_cuts, again    only where a draw has top_k, top_p or min_p
    choose              the token, by one number per (seed, stream, position)

What is drawn depends on the row and its draw alone, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dendrite_core.batching.batch import Draw
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.penalties import TokenMasks
from dendrite_core.sampling.sampler import GREEDY_BELOW, Sampler
from dendrite_core.sampling.seeding import uniforms
from dendrite_core.sampling.transfers import send, upload

_BLOCK = 2048
_SEARCHED = 8192
_PLACES = 1024


class _Settings:
    """What the parameters of a step's draws say, on the device; the same from step to step."""

    def __init__(self, params: list[SamplingParams], width: int, device: torch.device) -> None:
        self.params = params
        heats = [p.temperature for p in params]
        inverses = [0.0 if heat < GREEDY_BELOW else 1.0 / heat for heat in heats]
        columns = (inverses, [p.top_p for p in params], [p.min_p for p in params])
        self.inverses, self.top_p, self.min_p = upload(columns, torch.float32, device).unbind(0)
        self.top_k = upload([min(p.top_k or width, width) for p in params], torch.int32, device)
        self.filtered = any(p.top_k is not None or p.top_p < 1.0 or p.min_p > 0.0 for p in params)
        self.penalised = [row for row, p in enumerate(params) if p.has_penalties]
        if self.penalised:
            self.penalised_rows = upload(self.penalised, torch.int32, device)
            self.repetition = upload([p.repetition_penalty for p in params], torch.float32, device)
            counted = ([p.frequency_penalty for p in params], [p.presence_penalty for p in params])
            self.frequency, self.presence = upload(counted, torch.float64, device).unbind(0)
        bias = [
            (row * width + token, value)
            for row, p in enumerate(params)
            for token, value in p.logit_bias.items()
        ]
        self.biased = len(bias)
        if bias:
            self.bias_places = upload([place for place, _ in bias], torch.int64, device)
            self.bias = upload([value for _, value in bias], torch.float32, device)
        limits = [p.allowed_token_ids for p in params if p.allowed_token_ids is not None]
        self.limits: TokenMasks | None = None
        if limits:
            rows = iter(range(len(limits)))
            row_of = [None if p.allowed_token_ids is None else next(rows) for p in params]
            self.limits = TokenMasks(send(_bits(limits, width), device), row_of)

    @property
    def changes_logits(self) -> bool:
        return bool(self.penalised or self.biased or self.limits)


class CudaSampler(Sampler):
    """Draws on a CUDA device."""

    def __init__(self, vocab_size: int, device: str | torch.device) -> None:
        super().__init__(vocab_size, device)
        # Triton is there only where CUDA is.
        from dendrite_core.sampling import draw_kernel

        self.kernel = draw_kernel
        self.blocks = -(-vocab_size // _BLOCK)
        self.most = 1 << (self.blocks - 1).bit_length()
        self._known: _Settings | None = None

    def tokens(self, logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None = None) -> Tensor:
        """int32 `[D]` on the device, -1 for a draw that has nothing to draw from. logits: [R, V]"""
        rows, width = len(draws), self.vocab_size
        settings = self._settings(draws)
        keys = [(draw.seed, draw.stream, draw.position) for draw in draws]
        numbers = upload(uniforms(keys), torch.float64, self.device)
        logits = self._own(logits, draws, settings, masks)
        work = torch.empty(2 * self.blocks + 2, rows, device=self.device)
        highest, sums = work[: 2 * self.blocks].view(2, rows, self.blocks).unbind(0)
        cuts, greatest = work[2 * self.blocks :].unbind(0)
        found = torch.empty(rows * (self.blocks + 1), dtype=torch.int32, device=self.device)
        tokens, best = found[:rows], found[rows:]
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
            *row, numbers, highest, best, sums, *kept, tokens, width, self.blocks, _BLOCK, self.most,
            settings.filtered, num_warps=4,
        )  # fmt: skip
        return tokens

    def _settings(self, draws: Sequence[Draw]) -> _Settings:
        """Those of these draws; branches that go on keep theirs from step to step."""
        params = [draw.params for draw in draws]
        if self._known is None or params != self._known.params:
            self._known = _Settings(params, self.vocab_size, self.device)
        return self._known

    def _own(
        self, logits: Tensor, draws: Sequence[Draw], settings: _Settings, masks: TokenMasks | None
    ) -> Tensor:
        """Every draw's own logits, `logits` itself in the usual case, else a copy. [R, V] -> [D, V]"""
        rows, width = [draw.logits_row for draw in draws], self.vocab_size
        banned = [(row * width + token) for row, draw in enumerate(draws) for token in draw.banned]
        changed = masks is not None or settings.changes_logits or bool(banned)
        if not changed and rows == list(range(len(logits))):
            return logits
        own, grid = self._scratch(0, len(draws)), (len(draws), self.blocks)
        sources = upload(rows, torch.int32, self.device)
        self.kernel.copy_rows[grid](logits, logits.stride(0), sources, own, width, _BLOCK, num_warps=4)
        if settings.biased:
            self._add(own, settings.bias_places, settings.bias)
        if settings.penalised:
            self._penalise(own, draws, settings)
        if banned:
            never = torch.full((len(banned),), -torch.inf, device=self.device)
            self._add(own, upload(banned, torch.int64, self.device), never)
        for mask in (settings.limits, masks):
            if mask is not None:
                bits = send(mask.bits, self.device)
                mask_rows = [-1 if row is None else row for row in mask.row_of]
                on_device = upload(mask_rows, torch.int32, self.device)
                self.kernel.forbid[grid](own, bits, bits.shape[-1], on_device, width, _BLOCK, num_warps=4)
        return own

    def _add(self, own: Tensor, places: Tensor, values: Tensor) -> None:
        count = len(places)
        self.kernel.add_at[(-(-count // _PLACES),)](own, places, values, count, _PLACES, num_warps=4)

    def _penalise(self, own: Tensor, draws: Sequence[Draw], settings: _Settings) -> None:
        rows, width = settings.penalised, self.vocab_size
        parts = [
            np.asarray(part, np.int64) for row in rows for part in (draws[row].output, draws[row].prompt)
        ]
        tokens = np.concatenate(parts).astype(np.int32)
        if not len(tokens):
            return
        owners = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        both = send(torch.from_numpy(np.stack((tokens, owners))), self.device)
        counts = torch.zeros(len(parts), width, dtype=torch.int32, device=self.device)
        count = len(tokens)
        self.kernel.tally[(-(-count // _PLACES),)](
            both[0], both[1], counts, count, width, _PLACES, num_warps=4
        )
        self.kernel.penalise[(len(rows), self.blocks)](
            own, settings.penalised_rows, counts, settings.repetition, settings.frequency, settings.presence,
            width, _BLOCK, num_warps=4,
        )  # fmt: skip


def _bits(limits: Sequence[Sequence[int]], width: int) -> Tensor:
    """Sets of tokens as rows of a mask. -> int32 `[len(limits), ceil(width / 32)]`"""
    flags = np.zeros((len(limits), -(-width // 32) * 32), np.uint8)
    for row, tokens in zip(flags, limits, strict=True):
        row[np.asarray(tokens, np.int64)] = 1
    return torch.from_numpy(np.packbits(flags, axis=-1, bitorder="little").view(np.int32))
