"""Triton's interpreter runs the device's kernels on a CPU, where Triton is installed."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from dendrite_core.forward.cuda.attention_tree import TreeAttention
from dendrite_core.forward.cuda.work_list import Tiles

RUNS = (
    find_spec("triton") is not None
    and not torch.cuda.is_available()
    and os.environ.get("TRITON_INTERPRET") == "1"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/interpreted" not in str(item.path):
            continue
        # The interpreter computes with numpy, which warns of infinities.
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
        if not RUNS:
            item.add_marker(
                pytest.mark.skip(reason="needs Triton, and no CUDA device: tests/gpu is for those")
            )


class FewPrograms(TreeAttention):
    """As many programs as are worth running one after another."""

    def tiles(self, queries: int) -> Tiles:
        return replace(super().tiles(queries), programs=5)
