"""What changes logits before anything is drawn: logit_bias, penalties, allowed and banned ids, grammar masks.

In vLLM's order: bias, then repetition, frequency and presence, then everything that forbids. All rows that
need a change share a handful of indexed operations; the other rows are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dendrite_core.batching.batch import Draw

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """Which tokens a grammar allows: bit i of a row's words is token i.

    bits: [M, ceil(V / 32)] int32 on any device, a row per distinct grammar state. row_of: for each draw
    its row of `bits`, None for a draw without a grammar.
    """

    bits: Tensor
    row_of: Sequence[int | None]


def adjusted(
    logits: Tensor, draws: Sequence[Draw], masks: TokenMasks | None = None, *, out: Tensor | None = None
) -> Tensor:
    """`logits` itself when no draw asks for a change, else a changed copy (in `out`). [D, V] -> [D, V]"""
    biased = [row for row, draw in enumerate(draws) if draw.params.logit_bias]
    penalised = [row for row, draw in enumerate(draws) if draw.params.has_penalties]
    banned = [row for row, draw in enumerate(draws) if draw.banned]
    limited = limited_rows(draws)
    if not (biased or penalised or banned or limited or masks):
        return logits
    logits = logits.clone() if out is None else out.copy_(logits)
    if biased:
        _add_bias(logits, draws, biased)
    if penalised:
        _repetition(logits, draws, penalised)
        _frequency_and_presence(logits, draws, penalised)
    if limited:
        keep_only(logits, draws, limited)
    if banned:
        _ban(logits, draws, banned)
    if masks is not None:
        _mask(logits, masks)
    return logits


def _add_bias(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> None:
    tables = [draws[row].params.logit_bias for row in rows]
    ids = [np.fromiter(table.keys(), np.int64, len(table)) for table in tables]
    bias = [np.fromiter(table.values(), np.float32, len(table)) for table in tables]
    at = _flat(logits, rows, ids)
    entries = logits.view(-1)
    entries[at] += torch.from_numpy(np.concatenate(bias)).to(logits.device)


def _repetition(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> None:
    rows = [row for row in rows if draws[row].params.repetition_penalty != 1.0]
    if not rows:
        return
    # Repeated ids need no care: each writes the same value computed from the logit before.
    ids = [np.concatenate([_array(draws[row].prompt), _array(draws[row].output)]) for row in rows]
    at = _flat(logits, rows, ids)
    penalty = _spread([draws[row].params.repetition_penalty for row in rows], ids).to(logits.device)
    entries = logits.view(-1)
    before = entries[at]
    entries[at] = torch.where(before > 0, before / penalty, before * penalty)


def _frequency_and_presence(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> None:
    rows = [row for row in rows if _counts_output(draws[row]) and len(draws[row].output)]
    if not rows:
        return
    counted = [np.unique(_array(draws[row].output), return_counts=True) for row in rows]
    ids = [found for found, _ in counted]
    taken = [
        draws[row].params.frequency_penalty * counts + draws[row].params.presence_penalty
        for row, (_, counts) in zip(rows, counted, strict=True)
    ]
    entries = logits.view(-1)
    entries[_flat(logits, rows, ids)] -= torch.from_numpy(np.concatenate(taken)).to(logits)


def _counts_output(draw: Draw) -> bool:
    return draw.params.frequency_penalty != 0.0 or draw.params.presence_penalty != 0.0


def limited_rows(draws: Sequence[Draw]) -> list[int]:
    """The draws that may only be of certain tokens."""
    return [row for row, draw in enumerate(draws) if draw.params.allowed_token_ids is not None]


def keep_only(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> None:
    """Forbid what `allowed_token_ids` do not have, in place. logits: [D, V]"""
    at = _flat(logits, rows, [_array(draws[row].params.allowed_token_ids or ()) for row in rows])
    entries = logits.view(-1)
    kept = entries[at]
    logits[torch.tensor(rows, device=logits.device)] = -torch.inf
    entries[at] = kept


def _ban(logits: Tensor, draws: Sequence[Draw], rows: Sequence[int]) -> None:
    at = _flat(logits, rows, [_array(draws[row].banned) for row in rows])
    logits.view(-1)[at] = -torch.inf


def _mask(logits: Tensor, masks: TokenMasks) -> None:
    rows = [row for row, source in enumerate(masks.row_of) if source is not None]
    if not rows:
        return
    allowed = _unpacked(masks.bits, logits.shape[1])
    if list(masks.row_of) == list(range(len(allowed))):
        # The usual case, one mask for each draw: a gather and a scatter would cost more than the mask itself.
        logits.masked_fill_(~allowed, -torch.inf)
        return
    sources = torch.tensor([source for source in masks.row_of if source is not None])
    where = torch.tensor(rows).to(logits.device)
    logits[where] = logits[where].masked_fill_(~allowed[sources.to(allowed.device)], -torch.inf)


def _unpacked(bits: Tensor, width: int) -> Tensor:
    """Bits as booleans; tokens beyond the mask are not allowed. [M, W] -> [M, width]"""
    if bits.device.type == "cpu":
        flags = np.unpackbits(bits.numpy().view(np.uint8), axis=-1, bitorder="little").view(np.bool_)
        allowed = torch.from_numpy(flags)
    else:
        places = torch.arange(32, device=bits.device, dtype=bits.dtype)
        allowed = ((bits[..., None] >> places) & 1).bool().flatten(1)
    if allowed.shape[1] < width:
        return torch.nn.functional.pad(allowed, (0, width - allowed.shape[1]))
    return allowed[:, :width]


def _flat(logits: Tensor, rows: Sequence[int], ids: Sequence[Ints]) -> Tensor:
    """Positions in the flattened logits of each row's ids."""
    starts = np.repeat(np.array(rows) * logits.shape[1], [len(row) for row in ids])
    return torch.from_numpy(starts + np.concatenate(ids)).to(logits.device)


def _spread(values: Sequence[float], ids: Sequence[Ints]) -> Tensor:
    """One value per row as one value per id."""
    return torch.from_numpy(np.repeat(np.array(values, np.float32), [len(row) for row in ids]))


def _array(ids: Sequence[int]) -> Ints:
    return np.asarray(ids, dtype=np.int64)
