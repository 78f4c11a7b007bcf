"""Attention as one would write it on a blackboard: the slow, simple formulation that others are held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class DenseAttend:
    """An `attend` for one sequence: keeps every key and value, and softmaxes over all of them."""

    def __init__(self, scale: float | Sequence[float], windows: Sequence[int | None]) -> None:
        self.scales = list(scale) if isinstance(scale, Sequence) else [scale] * len(windows)
        self.windows = windows
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`q [T, heads, d]`, `k` and `v [T, kv_heads, d]` of the next T positions -> `[T, heads * d]`."""
        if layer in self.kept:
            before_k, before_v = self.kept[layer]
            k, v = torch.cat([before_k, k]), torch.cat([before_v, v])
        self.kept[layer] = k.clone(), v.clone()
        group = q.shape[1] // k.shape[1]
        keys, values = (x.repeat_interleave(group, 1).double() for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q.double(), keys) * self.scales[layer]
        scores.masked_fill_(~self._seen(len(q), len(k), self.windows[layer]), -torch.inf)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
        return mixed.reshape(len(q), -1).to(q.dtype)

    @staticmethod
    def _seen(queries: int, keys: int, window: int | None) -> Tensor:
        """`[queries, keys]`: a query sees itself and what came before, a window's length at most."""
        back = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        return (back >= 0) & (back < window if window is not None else True)


def dense_attend(decoder: object) -> DenseAttend:
    """Attention for a fresh sequence of this decoder."""
    return DenseAttend(decoder.attention_scale, decoder.layer_windows)  # type: ignore[attr-defined]
