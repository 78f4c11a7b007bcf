"""Decode steps on a GPU: graphs, growth under one plan, forks, the fused pass, the sampler."""

from __future__ import annotations

import pytest
import torch

from dendrite_core.batching.batch import Batch, Draw
from dendrite_core.forward.attention import DenseAttention
from dendrite_core.forward.batch import ForwardBatch
from dendrite_core.forward.cuda.cuda_graph import CudaRunner
from dendrite_core.forward.runner import build_runner
from dendrite_core.models.loading import LoadedModel, load_model
from dendrite_core.params import SamplingParams
from tests.forward.forest import Forest

PAGE, PAGES = 16, 600
DEVICE = torch.device("cuda")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("shape:llama-8m", torch.bfloat16, "cuda")


def cuda_runner(model: LoadedModel, pages: int = PAGES, max_rows: int = 256) -> CudaRunner:
    runner = build_runner(model, pages, PAGE, attention_backend="tree", max_rows=max_rows)
    assert isinstance(runner, CudaRunner)
    return runner


def filled(batch: Batch, tokens: list[int] | None = None) -> Batch:
    """The batch with token ids, and the logits of each row's last token wanted."""
    batch.token_ids = tokens or [(7 * p + 3) % 4096 for p in batch.positions]
    batch.logits_at = [end - 1 for end in batch.row_starts[1:]]
    return batch


def exact(model: LoadedModel, runner: CudaRunner, batch: Batch) -> torch.Tensor:
    """The same step through the plain pass and dense attention, over the KV that is there."""
    dense = DenseAttention(runner.tree.shape, runner.store)
    forward = ForwardBatch.build(batch, DEVICE)
    dense.plan(forward)
    with torch.inference_mode():
        hidden = model.decoder(forward.token_ids, forward.positions, dense.attend)
        return model.decoder.logits(hidden[batch.logits_at])


def close(found: torch.Tensor, want: torch.Tensor) -> bool:
    return bool(((found - want).norm() / want.norm()).item() < 2e-2)


def test_rows_grow_and_fork_under_graphs(model: LoadedModel) -> None:
    runner, forest = (
        cuda_runner(model),
        Forest(PAGE, PAGES, scattered=True),
    )
    root = forest.open()
    assert close(runner.run(b := filled(forest.step({root: 333}))).clone(), exact(model, runner, b))
    for _ in range(11):
        forest.fork(root)
    for step in range(70):
        batch = filled(forest.step(dict.fromkeys(forest.rows, 1)))
        found = runner.run(batch).clone()
        if step % 9 == 0:
            assert close(found, exact(model, runner, batch))
        if step == 30:
            forest.close(forest.rows[3])
            forest.fork(forest.rows[5])
    assert runner.plans < 10


def test_a_fork_equals_the_same_tokens_computed_anew(model: LoadedModel) -> None:
    runner, forest = cuda_runner(model), Forest(PAGE, PAGES)
    root = forest.open()
    runner.run(filled(forest.step({root: 100})))
    child = forest.fork(root)
    for _ in range(20):
        forked = runner.run(filled(forest.step({child: 1}))).clone()
    anew = forest.open()
    assert close(forked, runner.run(filled(forest.step({anew: 120}))))


def test_short_prompts_beside_decoding_rows_replay_a_graph(model: LoadedModel) -> None:
    runner, forest = (
        cuda_runner(model),
        Forest(PAGE, PAGES, scattered=True),
    )
    root = forest.open()
    runner.run(filled(forest.step({root: 90})))
    for new in (2, 17, 60, 2):
        child, other = forest.fork(root), forest.open()
        batch = filled(forest.step({root: 1, child: new, other: new}))
        found = runner.run(batch).clone()
        assert close(found, exact(model, runner, batch))
        forest.close(other)
    assert runner.graphs


def test_more_rows_than_a_short_prompt_has_tokens_replay_a_graph(model: LoadedModel) -> None:
    forest = Forest(PAGE, 1000, scattered=True)
    runner = cuda_runner(model, 1000, max_rows=400)
    root = forest.open()
    runner.run(filled(forest.step({root: 70})))
    for _ in range(299):
        forest.fork(root)
    for _ in range(3):
        batch = filled(forest.step(dict.fromkeys(forest.rows, 1)))
        found = runner.run(batch).clone()
        assert close(found, exact(model, runner, batch))
    assert {key[0] for key in runner.graphs} == {96, 384}


def test_graphs_captured_at_their_first_step_leave_nothing_behind(model: LoadedModel) -> None:
    """Those of the start ran over the addresses of no plan, the others over that of their step."""
    runner, forest = (
        cuda_runner(model),
        Forest(PAGE, PAGES, scattered=True),
    )
    runner.prepare()
    assert {key[0] for key in runner.graphs} == {1, 2, 4, 8, 16, 24, 32, 48, 64, 256}
    root = forest.open()
    runner.run(filled(forest.step({root: 333})))
    for rows in (40, 66, 130):
        while len(forest.rows) < rows:
            forest.fork(root)
        for _ in range(2):
            batch = filled(forest.step(dict.fromkeys(forest.rows, 1)))
            assert close(runner.run(batch).clone(), exact(model, runner, batch))
    assert {96, 192} <= {key[0] for key in runner.graphs}


def test_tokens_on_the_device_stand_in_for_those_of_the_batch(model: LoadedModel) -> None:
    runner, forest = cuda_runner(model), Forest(PAGE, PAGES)
    rows = [forest.open() for _ in range(3)]
    runner.run(filled(forest.step(dict.fromkeys(rows, 40))))
    batch = filled(forest.step(dict.fromkeys(rows, 1)), [5, 6, 7])
    want = runner.run(batch).clone()
    batch.token_ids = [0, 0, 0]
    found = runner.run(batch, torch.tensor([5, 6, 7], dtype=torch.int32, device=DEVICE))
    assert torch.equal(found, want)


def test_the_fused_draw_equals_the_general_one_at_any_place_in_the_batch() -> None:
    from dendrite_core.sampling.sampler import Sampler
    from dendrite_core.sampling.sampler_cuda import CudaSampler

    logits = torch.randn(40, 5000, device=DEVICE) * 3
    logits[3, 100:] = -torch.inf
    draws = [Draw(r, SamplingParams(temperature=[0.0, 0.7, 1.0, 1.5][r % 4]), 5, r, 9) for r in range(40)]
    fused = CudaSampler(5000, DEVICE).sample(logits, draws).token_ids
    general = Sampler(5000, DEVICE).sample(logits, draws).token_ids
    assert sum(a == b for a, b in zip(fused, general, strict=True)) >= 39
    backwards = [draw._replace(logits_row=39 - draw.logits_row) for draw in reversed(draws)]
    assert CudaSampler(5000, DEVICE).sample(logits.flip(0).contiguous(), backwards).token_ids == fused[::-1]


def test_a_row_without_any_token_is_a_fault() -> None:
    from dendrite_core.sampling.sampler_cuda import CudaSampler

    logits = torch.full((2, 5000), -torch.inf, device=DEVICE)
    logits[1, 4999] = 0.0
    draws = [Draw(r, SamplingParams(temperature=1.0), 5, r, 9) for r in range(2)]
    sampled = CudaSampler(5000, DEVICE).sample(logits, draws)
    assert list(sampled.faults) == [0]
    assert sampled.token_ids[1] == 4999
