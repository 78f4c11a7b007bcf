"""Random numbers by counter: a draw's number depends on its (seed, stream, position) and on nothing else.

No generator is advanced, so batching, preemption and replay cannot shift anyone's numbers. The scalar and
the vectorised form give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int, int]

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_FIRST = 0xBF58_476D_1CE4_E5B9
_SECOND = 0x94D0_49BB_1331_11EB
# One bit below a float's 53, so that `uniform * total` never rounds up to `total`.
_BITS = 52
_DROPPED, _RANGE = 64 - _BITS, 1 << _BITS

_GOLDEN_64, _FIRST_64, _SECOND_64, _DROPPED_64 = np.array([_GOLDEN, _FIRST, _SECOND, _DROPPED], np.uint64)
_SHIFTS = np.array([30, 27, 31], np.uint64)
_FEW = 12


def uniform(seed: int, stream: int, position: int) -> float:
    """The number in [0, 1) of one draw; any integers will do, taken modulo 2**64."""
    return (_mix(_stream_state(seed, stream) ^ (position & _MASK)) >> _DROPPED) / _RANGE


def uniforms(keys: Sequence[Key]) -> list[float]:
    """`uniform` of many keys at once."""
    if len(keys) < _FEW:
        return [uniform(*key) for key in keys]
    states = [_stream_state(seed, stream) ^ (position & _MASK) for seed, stream, position in keys]
    mixed = _mix_many(np.array(states, dtype=np.uint64))
    numbers: list[float] = ((mixed >> _DROPPED_64) / _RANGE).tolist()
    return numbers


@lru_cache(maxsize=65_536)
def _stream_state(seed: int, stream: int) -> int:
    """What seed and stream alone contribute, the same at every position of a branch."""
    return _mix(_mix(seed & _MASK) ^ (stream & _MASK))


def _mix(bits: int) -> int:
    """splitmix64: every input bit changes every output bit with probability one half."""
    bits = (bits + _GOLDEN) & _MASK
    bits = ((bits ^ (bits >> 30)) * _FIRST) & _MASK
    bits = ((bits ^ (bits >> 27)) * _SECOND) & _MASK
    return bits ^ (bits >> 31)


def _mix_many(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = bits + _GOLDEN_64
    bits = (bits ^ (bits >> _SHIFTS[0])) * _FIRST_64
    bits = (bits ^ (bits >> _SHIFTS[1])) * _SECOND_64
    mixed: NDArray[np.uint64] = bits ^ (bits >> _SHIFTS[2])
    return mixed
