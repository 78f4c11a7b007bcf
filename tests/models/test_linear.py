"""Every linear kernel computes `x @ W.T + b`, and one is chosen by measurement."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dendrite_core.errors import ModelLoadError
from dendrite_core.models import linear
from dendrite_core.models.linear import MakeKernel, Weight, bag_width, bags, choose, half, packed, plain

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def weight(outputs: int, inputs: int, biased: bool = False, dtype: torch.dtype = torch.float32) -> Weight:
    generator = torch.Generator().manual_seed(outputs * inputs)
    matrix = torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator).to(dtype) if biased else None
    return Weight(matrix.to(dtype), bias)


def exact(x: Tensor, w: Weight) -> Tensor:
    product = x.double() @ w.matrix.double().T
    return product if w.bias is None else product + w.bias.double()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(384, 64), (512, 96), (160, 30), (331, 64)])
@pytest.mark.parametrize(
    ("make", "rows"), [(plain, 5), (packed, 1), (packed, 5), (packed, 70), (bags, 1), (bags, 3)]
)
@torch.inference_mode()
def test_kernels_compute_the_product(
    make: MakeKernel, rows: int, outputs: int, inputs: int, biased: bool, threads: int
) -> None:
    w, x = weight(outputs, inputs, biased), torch.randn(rows, inputs)
    kernel = make(w)
    torch.testing.assert_close(kernel(x).double(), exact(x, w), rtol=1e-4, atol=1e-4)
    # A second call, since kernels may keep buffers.
    torch.testing.assert_close(kernel(-x).double(), exact(-x, w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 9])
@torch.inference_mode()
def test_half_weights_round_the_weights_only(rows: int) -> None:
    w, x = weight(96, 64, biased=True), torch.randn(rows, 64)
    rounded = Weight(w.matrix.half(), w.bias)
    torch.testing.assert_close(half(w)(x).double(), exact(x, rounded), rtol=1e-5, atol=1e-5)


def test_half_refuses_weights_beyond_its_range() -> None:
    with pytest.raises(ModelLoadError, match="float16"):
        half(Weight(torch.full((16, 16), 70000.0)))


@torch.inference_mode()
def test_bags_in_bfloat16() -> None:
    w, x = weight(256, 64, dtype=torch.bfloat16), torch.randn(1, 64).bfloat16()
    found = bags(w)(x)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.double(), exact(x, w), rtol=1e-2, atol=1e-1)


def test_bags_give_every_thread_a_block(threads: int) -> None:
    assert bag_width(1536) == 384
    assert bag_width(256) == (256 if threads == 1 else 128)
    assert bag_width(16) == 16
    assert bag_width(331) is None


def test_the_fastest_kernel_is_chosen_and_a_near_tie_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = {plain: 0.95, packed: 1.0, bags: 0.0}
    monkeypatch.setattr(linear, "_seconds", lambda make, _, rows: fixed[make] + rows * (make is bags) / 3)
    choice = choose([weight(64, 64)], torch.float32, CPU, 1)
    assert choice.names == ("bags", "packed")
    assert choice.few_rows == 2
    # Two layouts are too much for a model this large: the one for many rows serves both.
    assert choose([weight(64, 64)], torch.float32, CPU, 1 << 40).names == ("packed", "packed")


def test_a_kernel_this_machine_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(make: MakeKernel, *_: object) -> float:
        if make is not plain:
            raise RuntimeError("not compiled")
        return 1.0

    monkeypatch.setattr(linear, "_seconds", lacking)
    assert choose([weight(64, 64)], torch.float32, CPU, 1).names == ("plain", "plain")


def test_other_devices_use_torchs_own_product() -> None:
    assert choose([], torch.float16, torch.device("cuda"), 1).names == ("plain", "plain")


def test_float16_on_a_cpu_is_fbgemms() -> None:
    assert choose([], torch.float16, CPU, 1).names == ("half", "half")


def test_measuring_real_weights_gives_kernels_that_work() -> None:
    w = weight(256, 64)
    choice = choose([w] * 3, torch.float32, CPU, 1)
    for make, rows in ((choice.few, 1), (choice.few, choice.few_rows), (choice.many, 16)):
        x = torch.randn(rows, 64)
        torch.testing.assert_close(make(w)(x).double(), exact(x, w), rtol=1e-4, atol=1e-4)
