"""Block-wise picking against the plain formulation, at lengths around the block borders."""

from __future__ import annotations

import pytest
import torch

from dendrite_core.sampling import pick

LENGTHS = [1, 7, 127, 128, 4096, 4097, 5000, 8192, 8193, 40_001]


def numbers_of(rows: int, length: int) -> torch.Tensor:
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", LENGTHS)
def test_the_greatest_are_torch_topk(length: int) -> None:
    rows = numbers_of(3, length)
    for k in (1, 5, 64):
        values, indices = pick.greatest_k(rows, min(k, length))
        assert torch.equal(values, rows.topk(min(k, length)).values)
        assert torch.equal(rows.gather(1, indices), values)
    assert torch.equal(pick.greatest(rows), rows.argmax(-1))


def test_the_greatest_of_a_row_with_few_numbers_above_minus_infinity() -> None:
    rows = torch.full((1, 6001), -torch.inf)
    rows[0, 6000] = 1.0
    values, indices = pick.greatest_k(rows, 3)
    assert indices[0, 0] == 6000
    assert values.tolist() == [[1.0, -torch.inf, -torch.inf]]
    assert (indices < 6001).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_a_draw_inverts_the_cumulative_sum(length: int) -> None:
    weights = torch.softmax(numbers_of(1, length) * 2, -1)
    numbers = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    index, total = pick.draw(weights.expand(1000, -1), numbers)
    sums = weights[0].double().cumsum(-1)
    # Float32 block sums shift borders by a rounding, so the neighbourhood is what must be right.
    assert (sums[index] > numbers * sums[-1] - 1e-6).all()
    assert (sums[index] - weights[0, index] <= numbers * sums[-1] + 1e-6).all()
    assert torch.allclose(total, sums[-1].float().double(), atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("number", [0.0, 0.5, 1.0 - 2.0**-52])
def test_a_weight_of_zero_is_never_drawn(length: int, number: float) -> None:
    generator = torch.Generator().manual_seed(length)
    weights = torch.rand(50, length, generator=generator) * (
        torch.rand(50, length, generator=generator) < 0.02
    )
    weights[:, length // 2] = 1e-30
    index, total = pick.draw(weights, torch.full((50,), number, dtype=torch.float64))
    assert (total > 0).all()
    assert (weights.gather(1, index[:, None]) > 0).all()
