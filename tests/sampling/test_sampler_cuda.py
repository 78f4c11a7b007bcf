"""The device's sampler against the plain one, on the same logits.

`TRITON_INTERPRET=1 pytest tests/sampling/test_sampler_cuda.py` runs it on a CPU, where Triton is installed.
"""

from __future__ import annotations

import os
import random
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from dendrite_core.batching.batch import Draw
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.penalties import TokenMasks, adjusted
from dendrite_core.sampling.sampler import Sampler
from dendrite_core.sampling.sampler_cuda import CudaSampler
from dendrite_core.sampling.seeding import uniform
from tests.sampling.reference import distribution

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and not torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"
VOCAB = 5003 if INTERPRETED else 128_256
ROWS = 6 if INTERPRETED else 48

pytestmark = [
    pytest.mark.skipif(
        find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()),
        reason="needs a CUDA device, or Triton and TRITON_INTERPRET=1",
    ),
    # The interpreter computes with numpy, which warns of infinities and NaN.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

PARAMS = {
    "greedy": SamplingParams(temperature=0.0),
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.3),
    "top_k": SamplingParams(top_k=40),
    "top_k 1": SamplingParams(top_k=1),
    "top_k of half": SamplingParams(top_k=2500),
    "top_k of everything": SamplingParams(top_k=2**40),
    "top_p": SamplingParams(top_p=0.9),
    "top_p tiny": SamplingParams(top_p=1e-6),
    "top_p that needs many": SamplingParams(temperature=1.5, top_p=0.999),
    "min_p": SamplingParams(min_p=0.05),
    "all": SamplingParams(temperature=1.2, top_k=50, top_p=0.8, min_p=0.01),
    "limited": SamplingParams(allowed_token_ids=(5, 17, 70, 4000)),
    "biased": SamplingParams(logit_bias={3: 4.0, 17: -100.0, 4999: 2.0}),
    "penalised": SamplingParams(presence_penalty=0.7, frequency_penalty=0.3, repetition_penalty=1.3),
    "penalised and filtered": SamplingParams(top_p=0.7, repetition_penalty=0.8, logit_bias={5: 1.0}),
}


def logits_of(rows: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    found = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread
    return found.to(DEVICE)


def draws_of(params: SamplingParams, rows: int, *, rng: random.Random, stream: int = 0) -> list[Draw]:
    draws = []
    for row in range(rows):
        prompt, output = ([rng.randrange(VOCAB) for _ in range(rng.choice([0, 3, 200]))] for _ in "ab")
        history = (prompt, output) if params.has_penalties else ((), ())
        banned = rng.choice([(), (1, 2)])
        draws.append(Draw(row, params, rng.randrange(1 << 60), stream, rng.randrange(9999), *history, banned))
    return draws


def assert_same(found: list[int], want: list[int], logits: torch.Tensor, draws: list[Draw]) -> None:
    """Equal tokens, except where the number falls on the edge between two by less than float32 can tell."""
    for token, other, draw in zip(found, want, draws, strict=True):
        if token != other:
            exact = distribution(logits[draw.logits_row].cpu().numpy(), draw).cumsum()
            number = uniform(draw.seed, draw.stream, draw.position)
            edges = np.abs(exact[[token, other, token - 1, other - 1]] - number)
            assert edges.min() < 2e-5, f"{token} is not {other}"


@pytest.mark.parametrize("spread", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("name", PARAMS)
def test_draws_what_the_plain_sampler_draws(name: str, spread: float) -> None:
    logits, rng = logits_of(ROWS, spread=spread), random.Random(name)
    draws = draws_of(PARAMS[name], ROWS, rng=rng)
    found = CudaSampler(VOCAB, DEVICE).sample(logits, draws)
    want = Sampler(VOCAB, "cpu").sample(logits.cpu(), draws)
    assert not found.faults
    assert_same(found.token_ids, want.token_ids, logits, draws)


def test_one_batch_of_everything_is_the_same_draws_one_by_one() -> None:
    logits, rng = logits_of(len(PARAMS)), random.Random(4)
    draws = [draws_of(p, 1, rng=rng)[0]._replace(logits_row=row) for row, p in enumerate(PARAMS.values())]
    sampler = CudaSampler(VOCAB, DEVICE)
    together = sampler.sample(logits, draws).token_ids
    assert_same(together, Sampler(VOCAB, "cpu").sample(logits.cpu(), draws).token_ids, logits, draws)
    assert [sampler.sample(logits, [draw]).token_ids[0] for draw in draws] == together
    backwards = [draw._replace(logits_row=len(draws) - 1 - draw.logits_row) for draw in reversed(draws)]
    assert sampler.sample(logits.flip(0).contiguous(), backwards).token_ids == together[::-1]


def test_changed_logits_are_those_of_the_plain_sampler_bit_for_bit() -> None:
    rng, logits = random.Random(9), logits_of(8)
    params = [*PARAMS.values()][-3:]
    draws = [draws_of(params[row % 3], 8, rng=rng)[row] for row in range(8)]
    masks = random_masks(3, rng), [0, None, 1, 2, None, 0, 0, 1]
    sampler = CudaSampler(VOCAB, DEVICE)
    own = sampler._own(logits, draws, sampler._settings(draws), TokenMasks(masks[0], masks[1]))
    assert torch.equal(own.cpu(), adjusted(logits.cpu(), draws, TokenMasks(masks[0], masks[1])))


def random_masks(count: int, rng: random.Random, width: int = VOCAB) -> torch.Tensor:
    """Bits of random tokens, for a vocabulary of `width`."""
    words = np.array([[rng.getrandbits(32) for _ in range(-(-width // 32))] for _ in range(count)], np.uint32)
    return torch.from_numpy(words.view(np.int32))


def test_a_grammar_keeps_greedy_and_filtered_draws_to_its_tokens() -> None:
    rng = random.Random(2)
    names = ["greedy", "plain", "top_k", "top_p", "all", "penalised and filtered"]
    draws = [draws_of(PARAMS[n], 1, rng=rng)[0]._replace(logits_row=row) for row, n in enumerate(names)]
    logits = logits_of(len(names))
    # Shorter than the vocabulary, as grammars do not know padding: what lies beyond is forbidden.
    masks = TokenMasks(random_masks(2, rng, VOCAB - 100), [0, 1, 0, 1, 0, None])
    found = CudaSampler(VOCAB, DEVICE).sample(logits, draws, masks).token_ids
    want = Sampler(VOCAB, "cpu").sample(logits.cpu(), draws, masks).token_ids
    assert found == want
    for token, row in zip(found, masks.row_of, strict=True):
        assert row is None or (int(masks.bits[row, token // 32]) >> token % 32) & 1


def test_forks_share_one_row_of_logits() -> None:
    logits, params = logits_of(2), SamplingParams(top_p=0.95)
    draws = [Draw(row, params, 3, stream, 100) for stream in range(9) for row in (1, 0)]
    found = CudaSampler(VOCAB, DEVICE).sample(logits, draws).token_ids
    assert_same(found, Sampler(VOCAB, "cpu").sample(logits.cpu(), draws).token_ids, logits, draws)
    assert len(set(found)) > 9


def test_ties_are_kept_together() -> None:
    logits = torch.full((1, VOCAB), -5.0, device=DEVICE)
    logits[0, 10:20] = 2.0
    sampler, params = CudaSampler(VOCAB, DEVICE), SamplingParams(top_k=3, top_p=0.5)
    draws = [Draw(0, params, 1, stream, 5) for stream in range(64)]
    found = sampler.sample(logits, draws).token_ids
    assert set(found) == set(range(10, 20))


def test_a_row_without_any_token_is_a_fault_of_that_row_alone() -> None:
    logits = logits_of(4)
    logits[0] = -torch.inf
    logits[1, 7] = torch.nan
    logits[3] = -torch.inf
    logits[3, 4999] = 1.0
    for params in (SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_k=5, top_p=0.5)):
        found = CudaSampler(VOCAB, DEVICE).sample(logits, [Draw(row, params, 1, 0, 5) for row in range(4)])
        assert list(found.faults) == [0, 1]
        assert found.token_ids[3] == 4999


def test_logprobs_are_those_of_the_plain_sampler() -> None:
    logits = logits_of(4)
    params = [
        SamplingParams(logprobs=5),
        SamplingParams(),
        SamplingParams(logprobs=0),
        SamplingParams(logprobs=20),
    ]
    draws = [Draw(3 - row, p, 1, row, 5) for row, p in enumerate(params)]
    found = CudaSampler(VOCAB, DEVICE).sample(logits, draws)
    want = Sampler(VOCAB, "cpu").sample(logits.cpu(), draws)
    assert found.token_ids == want.token_ids
    for entry, other in zip(found.logprobs, want.logprobs, strict=True):
        assert (entry is None) == (other is None)
        if entry is not None and other is not None:
            assert entry[0] == pytest.approx(other[0], abs=1e-4)
            assert [token for token, _ in entry[1]] == [token for token, _ in other[1]]
            assert [value for _, value in entry[1]] == pytest.approx([v for _, v in other[1]], abs=1e-4)


def test_tokens_are_fed_to_the_next_step_without_being_read() -> None:
    logits = logits_of(3)
    logits[1] = -torch.inf
    drawn = CudaSampler(VOCAB, DEVICE).launch(
        logits, [Draw(row, SamplingParams(), 1, 0, 5) for row in range(3)]
    )
    assert drawn.tokens.tolist() == drawn.read().token_ids, "a faulty draw is a valid id too"
