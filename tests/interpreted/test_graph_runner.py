"""The device's whole step without a device: fused pass, attention, and the runner that replays by buckets.

Held against the plain pass with dense attention. Nothing is captured here, the step is run as it is; what is
at its fixed addresses is what a graph would find there.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from dendrite_core.batching.batch import Batch
from dendrite_core.forward.attention import AttentionShape, DenseAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.cuda_graph import CudaRunner
from dendrite_core.forward.kv_store import KVStore
from dendrite_core.models.config import NativeConfig
from dendrite_core.models.cuda.forward import CudaForward
from dendrite_core.models.decoder import _Forward
from dendrite_core.models.loading import LoadedModel
from dendrite_core.models.parts import read_parts
from dendrite_core.models.weights import RandomWeights
from tests.forward.forest import Forest
from tests.interpreted.conftest import FewPrograms

PAGE, PAGES = 8, 160
CPU, HALF = torch.device("cpu"), torch.float16

# A vocabulary that fills no tile, so that the last one has to stop at the end of the weight.
TINY: dict[str, Any] = {
    "vocab_size": 333, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 256, "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 16},
    "qwen3": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 24},
}


class Loud(RandomWeights):
    """Weights large enough, and norms and biases uneven enough, that none could be overlooked."""

    def read(self, name: str) -> torch.Tensor:
        found = super().read(name)
        uneven = torch.randn(found.shape, generator=self._generator).to(found.dtype)
        return found + 0.2 * uneven if found.dim() == 1 else 4 * found


class Both:
    """The same weights through the device's runner and through the plain pass, over one store."""

    def __init__(self, family: str = "llama") -> None:
        self.config = config = NativeConfig.from_hf({"model_type": family, **TINY, **FAMILIES[family]})
        weights = Loud(config, HALF, CPU)
        parts = read_parts(
            config, weights, dtype=HALF, storage=torch.bfloat16, device=CPU, max_length=512, measured=False
        )
        self.fused, self.plain = CudaForward(config, parts), _Forward(config, parts)
        heads, kv_heads, d = config.num_heads, config.num_kv_heads, config.head_dim
        self.store = KVStore(config.num_layers, PAGES, PAGE, kv_heads, d, HALF, CPU, canaries=True)
        self.shape = AttentionShape(heads, kv_heads, d, d**-0.5, config.layer_windows)
        model: Any = LoadedModel(config, self.fused, "random weights", None)
        self.runner = CudaRunner(model, self.store, FewPrograms(self.shape, self.store))

    def exact(self, batch: Batch) -> torch.Tensor:
        """The step once more through the plain pass, which writes the same K and V to the same places."""
        dense, forward = DenseAttention(self.shape, self.store), ForwardBatch.build(batch, CPU)
        dense.plan(forward)
        hidden = self.plain(forward.token_ids, forward.positions, dense.attend)
        return self.plain.parts.head(1)(hidden[batch.logits_at]).float()

    def check(self, batch: Batch) -> None:
        """Run a step and hold it against the exact one."""
        batch.token_ids = [(7 * p + 3 * row) % 333 for row, p in enumerate(batch.positions)]
        batch.logits_at = [end - 1 for end in batch.row_starts[1:]]
        found = self.runner.run(batch).clone()
        self.store.check_canaries()
        want = self.exact(batch)
        assert ((found - want).norm(dim=-1) / want.norm(dim=-1)).max().item() < 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_one_row_a_few_and_many_equal_the_plain_pass(family: str) -> None:
    both, forest = Both(family), Forest(PAGE, PAGES, scattered=True)
    both.check(forest.step({forest.open(): 3}))
    both.check(forest.step({forest.rows[0]: 1}))
    for _ in range(4):
        both.check(forest.step({forest.fork(forest.rows[0]): 2}))
    both.check(forest.step(dict.fromkeys(forest.rows, 1)))
    both.check(forest.step({forest.open(): 70}))


def test_rows_grow_fork_and_end_under_one_plan_after_another() -> None:
    both, forest, rng = Both(), Forest(PAGE, PAGES, scattered=True), random.Random(1)
    both.check(forest.step({forest.open(): 30}))
    for _ in range(4):
        forest.fork(forest.rows[0])
    for step in range(11):
        # Five rows in a bucket of eight: three tokens are computed for nothing.
        both.check(forest.step(dict.fromkeys(forest.rows, 1)))
        if step == 7:
            forest.close(forest.rows[3])
            forest.fork(rng.choice(forest.rows))
    assert both.runner.plans == 3


def test_short_prompts_beside_decoding_rows() -> None:
    both, forest = Both(), Forest(PAGE, PAGES, scattered=True)
    root = forest.open()
    both.check(forest.step({root: 30}))
    for new in (2, 9, 2):
        child, other = forest.fork(root), forest.open()
        both.check(forest.step({root: 1, child: new, other: new}))
        forest.close(other)


def test_a_piece_of_a_prompt_that_asks_for_no_logits_gives_none() -> None:
    both, forest = Both(), Forest(PAGE, PAGES)
    batch = forest.step({forest.open(): 30})
    batch.logits_at = []
    assert both.runner.run(batch).shape == (0, 333)


def test_a_plan_smaller_than_the_one_before_leaves_nothing_of_it_behind() -> None:
    both, forest = Both(), Forest(PAGE, PAGES, scattered=True)
    root = forest.open()
    both.check(forest.step({root: 100}))
    for _ in range(7):
        forest.fork(root)
    both.check(forest.step(dict.fromkeys(forest.rows, 1)))
    for row in forest.rows[5:]:
        forest.close(row)
    both.check(forest.step(dict.fromkeys(forest.rows, 1)))
    starts = both.runner.static.slot_starts
    assert starts[:6].diff().gt(0).all(), "every row has parts to be merged"
    assert (starts[5:] == starts[5]).all(), "and no token beyond has any"


def test_tokens_on_the_device_stand_in_for_those_of_the_batch() -> None:
    both, forest = Both(), Forest(PAGE, PAGES)
    rows = [forest.open() for _ in range(3)]
    both.check(forest.step(dict.fromkeys(rows, 20)))
    batch = forest.step(dict.fromkeys(rows, 1))
    both.check(batch)
    want, known = both.runner.run(batch).clone(), list(batch.token_ids)
    batch.token_ids, batch.unread = [0, known[1], 0], [(0, 1), (2, 0)]
    found = both.runner.run(batch, torch.tensor([known[2], known[0]], dtype=torch.int32))
    assert torch.equal(found, want)


def test_graphs_captured_at_their_first_step_leave_nothing_behind() -> None:
    both, forest = Both(), Forest(PAGE, PAGES, scattered=True)
    both.runner.prepare()
    assert {key[0] for key in both.runner.graphs} == {1, 2, 4, 8, 16, 24, 32, 48, 64, 256}
    both.check(forest.step({forest.open(): 100}))
    for rows in (8, 66, 9):
        while len(forest.rows) < rows:
            forest.fork(forest.rows[0])
        del forest.rows[rows:]
        both.check(forest.step(dict.fromkeys(forest.rows, 1)))
    assert 96 in {key[0] for key in both.runner.graphs}
