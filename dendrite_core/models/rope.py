"""Rotary position embedding: its settings as checkpoints write them, and the table of rotations.

Pairs of channels are held next to each other, so that one complex product rotates queries and keys
together; checkpoints keep the halves of a head apart, and `interleaved` is the permutation between the
two. Frequencies follow transformers; where it recomputes them as a sequence grows (`dynamic`), a row here
depends on its position alone, so that a cached key never has to be rotated again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dendrite_core.errors import ModelLoadError

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")

_REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}


class NotNative(ModelLoadError):
    """A setting the native decoder does not express; transformers' own code of the model may."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """`settings` holds the numbers of the scaling rule by the names checkpoints use."""

    kind: str = "default"
    theta: float = 10000.0
    original_max_position: int = 2048
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, default_theta: float = 10000.0) -> RopeConfig:
        """Read `rope_parameters`, or the older `rope_theta` and `rope_scaling`."""
        found = {**(hf.get("rope_scaling") or {}), **(hf.get("rope_parameters") or {})}
        if any(isinstance(value, Mapping) for value in found.values()):
            raise NotNative("rope_parameters differ by layer type")
        kind = str(found.pop("rope_type", None) or found.pop("type", None) or "default")
        found.pop("type", None)
        theta = found.pop("rope_theta", None) or hf.get("rope_theta") or default_theta
        partial = found.pop("partial_rotary_factor", hf.get("partial_rotary_factor"))
        if partial not in (None, 1.0):
            raise NotNative(f"partial_rotary_factor {partial} is not supported")
        if kind not in KINDS:
            raise NotNative(f"rope type {kind!r} is not one of {', '.join(KINDS)}")
        if missing := [name for name in _REQUIRED[kind] if found.get(name) is None]:
            raise ModelLoadError(f"rope type {kind!r} needs {', '.join(missing)}")
        max_position = int(hf.get("max_position_embeddings") or 2048)
        # Some checkpoints write the original length beside the rope settings; transformers prefers that one.
        inner = found.pop("original_max_position_embeddings", None)
        original = hf.get("original_max_position_embeddings") or inner or max_position
        return cls(kind, float(theta), int(original if kind in ("llama3", "yarn") else max_position), found)

    def longest(self, max_position: int) -> int:
        """The context the scaling stretches `max_position` to."""
        if self.kind == "dynamic":
            return int(max_position * float(self.settings["factor"]))
        if self.kind == "yarn":
            return max(max_position, int(self.original_max_position * float(self.settings["factor"])))
        return max_position


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Radians per position of each pair of channels `[d / 2]`, and the factor cos and sin are scaled by."""
    plain = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.kind == "linear":
        return plain / float(rope.settings["factor"]), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, head_dim)
    return plain, 1.0


def rotations(rope: RopeConfig, head_dim: int, length: int) -> Tensor:
    """The complex rotation of every position, `[length, head_dim / 2]` complex64."""
    frequencies, magnitude = inverse_frequencies(rope, head_dim)
    positions = torch.arange(length, dtype=torch.float32)
    angles = positions[:, None] * frequencies
    if rope.kind == "dynamic" and length > rope.original_max_position:
        angles[rope.original_max_position :] = _dynamic_angles(rope, head_dim, length)
    return torch.complex(angles.cos() * magnitude, angles.sin() * magnitude)


def interleaved(head_dim: int) -> Tensor:
    """Indices `[head_dim]` that bring channel i next to channel i + head_dim / 2."""
    return torch.arange(head_dim).view(2, head_dim // 2).t().reshape(-1)


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotate interleaved heads `[T, n, d]` by `[T, 1, d / 2]` complex; in place when they are float32."""
    if heads.dtype is torch.float32:
        torch.view_as_complex(_pairs(heads)).mul_(rotation)
        return heads
    pairs = torch.view_as_complex(_pairs(heads.float()))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(heads.dtype)


def _pairs(heads: Tensor) -> Tensor:
    return heads.view(*heads.shape[:-1], -1, 2)


def _dynamic_angles(rope: RopeConfig, head_dim: int, length: int) -> Tensor:
    """Angles `[length - original, d / 2]` past the original length.

    Position p turns with the base that transformers uses for a sequence of p + 1 tokens: what its cached
    generation computes for that token. A fresh forward over the whole long sequence differs there, because
    it rotates the early positions again with the last base.
    """
    original, factor = rope.original_max_position, float(rope.settings["factor"])
    positions = torch.arange(original, length, dtype=torch.float64)
    stretch = factor * (positions + 1) / original - (factor - 1)
    bases = rope.theta * stretch ** (head_dim / (head_dim - 2))
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    return (positions[:, None] / bases[:, None] ** exponents).float()


def _llama3(rope: RopeConfig, plain: Tensor) -> Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between blended. `[d / 2]`"""
    factor, low, high = (float(rope.settings[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    original = rope.original_max_position
    waves = 2 * math.pi / plain
    blend = (original / waves - low) / (high - low)
    blended = (1 - blend) * plain / factor + blend * plain
    stretched = torch.where(waves > original / low, plain / factor, plain)
    between = (waves >= original / high) & (waves <= original / low)
    return torch.where(between, blended, stretched)


def _yarn(rope: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Fast channels keep their frequency, slow ones are divided by `factor`, a ramp between. `[d / 2]`"""
    factor = float(rope.settings["factor"])
    powers = rope.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    low, high = _yarn_range(rope, head_dim)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    return (1 / (factor * powers)) * (1 - kept) + (1 / powers) * kept, _yarn_magnitude(rope, factor)


def _yarn_range(rope: RopeConfig, head_dim: int) -> tuple[float, float]:
    """First and last channel of the ramp."""

    def channel(turns: float) -> float:
        span = math.log(rope.original_max_position / (turns * 2 * math.pi))
        return head_dim * span / (2 * math.log(rope.theta))

    low = channel(float(rope.settings.get("beta_fast") or 32))
    high = channel(float(rope.settings.get("beta_slow") or 1))
    if rope.settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high


def _yarn_magnitude(rope: RopeConfig, factor: float) -> float:
    given = rope.settings.get("attention_factor")
    if given is not None:
        return float(given)

    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    mscale, over_all = rope.settings.get("mscale"), rope.settings.get("mscale_all_dim")
    if mscale and over_all:
        return magnitude(float(mscale)) / magnitude(float(over_all))
    return magnitude(1.0)
