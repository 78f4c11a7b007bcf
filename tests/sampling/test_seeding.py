"""Counter-based random numbers: the same for the same key, and random for different ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dendrite_core.sampling.seeding import uniform, uniforms

any_int = st.integers(min_value=-(2**70), max_value=2**70)


@given(st.lists(st.tuples(any_int, any_int, any_int), max_size=40))
def test_vectorised_numbers_have_the_same_bits(keys: list[tuple[int, int, int]]) -> None:
    assert uniforms(keys) == [uniform(*key) for key in keys]


@given(any_int, any_int, any_int)
def test_numbers_are_in_the_half_open_unit_interval(seed: int, stream: int, position: int) -> None:
    assert 0.0 <= uniform(seed, stream, position) < 1.0


def test_numbers_stay_the_same_between_versions() -> None:
    assert uniform(0, 0, 0) == pytest.approx(FIRST, abs=0)
    assert uniform(42, 3, 1000) == pytest.approx(SECOND, abs=0)


@pytest.mark.parametrize("varied", [0, 1, 2], ids=["seed", "stream", "position"])
def test_counting_up_any_part_of_the_key_gives_uniform_independent_numbers(varied: int) -> None:
    keys = np.zeros((100_000, 3), dtype=np.int64)
    keys[:, varied] = np.arange(len(keys))
    numbers = np.array(uniforms(keys.tolist()))
    counts = np.histogram(numbers, bins=100, range=(0.0, 1.0))[0]
    chi_square = ((counts - 1000.0) ** 2 / 1000.0).sum()
    assert chi_square < 161.0, "99 degrees of freedom, p = 0.0001"
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 0.013, "4 standard errors"


def test_parts_of_the_key_are_not_interchangeable() -> None:
    assert len({uniform(*key) for key in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (3, 2, 1), (0, 3, 3)]}) == 5


FIRST = 0.13870941014555416
SECOND = 0.489835522925248
