"""Random numbers by counter: a draw's number depends on its (seed, stream, position) and on nothing else.

No generator is advanced, so batching, preemption and replay cannot shift anyone's numbers. The scalar and
the vectorised form give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int, int]

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_FIRST = 0xBF58_476D_1CE4_E5B9
_SECOND = 0x94D0_49BB_1331_11EB
# One bit below a float's 53, so that `uniform * total` never rounds up to `total`.
_BITS = 52
_FEW = 8


def uniform(seed: int, stream: int, position: int) -> float:
    """The number in [0, 1) of one draw; any integers will do, taken modulo 2**64."""
    mixed = 0
    for part in (seed, stream, position):
        mixed = _mix(((mixed ^ part) + _GOLDEN) & _MASK)
    return (mixed >> (64 - _BITS)) / (1 << _BITS)


def uniforms(keys: Sequence[Key]) -> list[float]:
    """`uniform` of many keys at once."""
    if len(keys) < _FEW:
        return [uniform(*key) for key in keys]
    parts = np.array([[part & _MASK for part in key] for key in keys], dtype=np.uint64)
    mixed = np.zeros(len(keys), dtype=np.uint64)
    for column in parts.T:
        mixed = _mix_many((mixed ^ column) + np.uint64(_GOLDEN))
    numbers: list[float] = ((mixed >> np.uint64(64 - _BITS)) / (1 << _BITS)).tolist()
    return numbers


def _mix(bits: int) -> int:
    """splitmix64's finaliser: every input bit changes every output bit with probability one half."""
    bits = ((bits ^ (bits >> 30)) * _FIRST) & _MASK
    bits = ((bits ^ (bits >> 27)) * _SECOND) & _MASK
    return bits ^ (bits >> 31)


def _mix_many(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    return bits ^ (bits >> np.uint64(31))
