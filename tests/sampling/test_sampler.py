"""The sampler against a slow reference, against transformers' processors, and against itself in any batch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from dendrite_core.batching.batch import Draw
from dendrite_core.errors import RequestError
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.filters import least_kept
from dendrite_core.sampling.penalties import TokenMasks
from dendrite_core.sampling.sampler import GREEDY_BELOW, Sampler
from tests.sampling.reference import distribution

SMALL, LARGE = 50, 5003


def logits_of(rows: int, vocab: int, seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def draw_of(
    params: SamplingParams, row: int = 0, *, position: int = 0, seed: int = 7, **more: object
) -> Draw:
    return Draw(row, params, seed, 0, position, **more)  # type: ignore[arg-type]


def sampler(vocab: int) -> Sampler:
    return Sampler(vocab, "cpu")


# --- distributions -----------------------------------------------------------------------------------

PARAMS = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.5),
    "hot": SamplingParams(temperature=2.0),
    "top_k": SamplingParams(top_k=5),
    "top_p": SamplingParams(top_p=0.7),
    "min_p": SamplingParams(min_p=0.15),
    "top_k and top_p": SamplingParams(temperature=1.5, top_k=10, top_p=0.8),
    "all": SamplingParams(temperature=1.2, top_k=20, top_p=0.9, min_p=0.05, logit_bias={3: 1.5, 4: -100}),
}


@pytest.mark.parametrize("name", PARAMS)
def test_many_draws_follow_the_distribution(name: str) -> None:
    params, count = PARAMS[name], 20_000
    logits = logits_of(1, SMALL, spread=1.0)
    draws = [draw_of(params, position=position) for position in range(count)]
    tokens = sampler(SMALL).sample(logits, draws).token_ids
    seen = np.bincount(tokens, minlength=SMALL)
    expected = distribution(logits[0].numpy(), draws[0]) * count
    assert not seen[expected == 0].any(), "a token outside the filters was drawn"
    assert chi_square_is_plausible(seen, expected)


def test_many_draws_over_a_large_vocabulary_follow_the_distribution() -> None:
    count = 4000
    logits = logits_of(1, LARGE, spread=4.0)
    draws = [draw_of(SamplingParams(), position=position) for position in range(count)]
    seen = np.bincount(sampler(LARGE).sample(logits, draws).token_ids, minlength=LARGE)
    assert chi_square_is_plausible(seen, distribution(logits[0].numpy(), draws[0]) * count)


def chi_square_is_plausible(seen: np.ndarray, expected: np.ndarray) -> bool:
    """Bins expecting fewer than 20 are thrown together; accept within 4.5 standard deviations."""
    large = expected >= 20
    seen_bins = np.append(seen[large], seen[~large].sum())
    expected_bins = np.append(expected[large], expected[~large].sum())
    full = expected_bins > 0
    terms = (seen_bins[full] - expected_bins[full]) ** 2 / expected_bins[full]
    freedom = full.sum() - 1
    return bool(terms.sum() <= freedom + 4.5 * np.sqrt(2 * freedom))


# --- filters against transformers ----------------------------------------------------------------------

WARPERS = {
    "top_k": (TopKLogitsWarper(7), SamplingParams(top_k=7)),
    "top_k beyond the quick width": (TopKLogitsWarper(300), SamplingParams(top_k=300)),
    "top_p": (TopPLogitsWarper(0.9), SamplingParams(top_p=0.9)),
    "top_p that needs many": (TopPLogitsWarper(0.999), SamplingParams(top_p=0.999)),
    "top_p tiny": (TopPLogitsWarper(1e-6), SamplingParams(top_p=1e-6)),
    "min_p": (MinPLogitsWarper(0.1), SamplingParams(min_p=0.1)),
}


@pytest.mark.parametrize("vocab", [SMALL, 400, LARGE])
@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
@pytest.mark.parametrize("name", WARPERS)
def test_filters_keep_what_transformers_keeps(name: str, spread: float, vocab: int) -> None:
    warper, params = WARPERS[name]
    logits = logits_of(6, vocab, spread=spread)
    probabilities = torch.softmax(logits, -1)
    cut = least_kept(probabilities, [params] * 6)
    assert cut is not None
    expected = warper(torch.zeros(6, 1, dtype=torch.long), logits.clone()) > -torch.inf
    # Float32 sums may disagree about a token only where the mass before it is top_p to seven digits.
    for row, token in ((probabilities >= cut) != expected).nonzero().tolist():
        exact = torch.softmax(logits[row].double(), -1)
        assert float(exact[exact > exact[token]].sum()) == pytest.approx(params.top_p, abs=1e-6)


def test_top_p_of_almost_nothing_still_keeps_the_best_token() -> None:
    logits = logits_of(4, SMALL)
    tokens = sampler(SMALL).sample(logits, [draw_of(SamplingParams(top_p=1e-9), row) for row in range(4)])
    assert tokens.token_ids == logits.argmax(-1).tolist()


def test_top_p_is_taken_of_what_top_k_leaves() -> None:
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    kept = probabilities >= least_kept(probabilities, [SamplingParams(top_k=2, top_p=0.57)])
    assert kept.tolist() == [[True, False, False, False]], "0.4 of 0.7 is 0.571"
    kept = probabilities >= least_kept(probabilities, [SamplingParams(top_k=2, top_p=0.58)])
    assert kept.tolist() == [[True, True, False, False]]


def test_tokens_as_likely_as_the_last_one_kept_are_kept() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.2, 0.2, 0.3]])
    kept = probabilities >= least_kept(probabilities, [SamplingParams(top_k=2)])
    assert kept.tolist() == [[False, True, True, True, True]]


# --- greedy --------------------------------------------------------------------------------------------


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    logits = torch.zeros(3, LARGE)
    logits[1, [17, 4000]] = 5.0
    logits[2, [4999, 5002]] = 5.0
    greedy = [draw_of(SamplingParams(temperature=0.0), row) for row in range(3)]
    assert sampler(LARGE).sample(logits, greedy).token_ids == [0, 17, 4999]


def test_a_temperature_next_to_zero_is_greedy() -> None:
    logits = logits_of(1, SMALL)
    token = sampler(SMALL).sample(logits, [draw_of(SamplingParams(temperature=1e-7))]).token_ids
    assert token == [int(logits.argmax())]


# --- independence of the batch ---------------------------------------------------------------------------


def mixed_draws(vocab: int, count: int) -> list[Draw]:
    chooser = random.Random(3)
    kinds = [
        SamplingParams(temperature=0.0, logprobs=3),
        SamplingParams(),
        SamplingParams(temperature=0.7, top_p=0.9, logprobs=20),
        SamplingParams(temperature=1.7, top_p=0.97),
        SamplingParams(top_k=3),
        SamplingParams(top_k=700, min_p=0.01),
        SamplingParams(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, logprobs=0),
        SamplingParams(logit_bias={1: 5.0, vocab - 1: -100.0}, temperature=0.9),
    ]
    tokens = [chooser.randrange(vocab) for _ in range(30)]
    return [
        Draw(
            row, kinds[row % len(kinds)], row * 31, row % 3, 100 + row, tokens[:9], tokens[9:], [row % vocab]
        )
        for row in range(count)
    ]


@pytest.mark.parametrize("vocab", [SMALL, LARGE])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_draw_gives_the_same_alone_and_in_any_batch(vocab: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_batch_independence(vocab)
    finally:
        torch.set_num_threads(before)


def check_batch_independence(vocab: int) -> None:
    count = 24
    logits, draws = logits_of(count, vocab, spread=1.5), mixed_draws(vocab, count)
    together = sampler(vocab).sample(logits, draws)
    order = random.Random(1).sample(range(count), count)
    shuffled = sampler(vocab).sample(
        logits[order], [draws[i]._replace(logits_row=at) for at, i in enumerate(order)]
    )
    assert shuffled.token_ids == [together.token_ids[i] for i in order]
    assert shuffled.logprobs == [together.logprobs[i] for i in order]
    for row in range(count):
        alone = sampler(vocab).sample(logits[row : row + 1], [draws[row]._replace(logits_row=0)])
        assert alone.token_ids == [together.token_ids[row]]
        assert alone.logprobs == [together.logprobs[row]]


def test_children_of_one_prompt_share_its_row_and_differ_by_stream() -> None:
    logits = logits_of(2, SMALL)
    draws = [Draw(1, SamplingParams(temperature=1.5), 5, stream, 10) for stream in range(64)]
    tokens = sampler(SMALL).sample(logits, draws).token_ids
    assert len(set(tokens)) > 5
    assert tokens == [sampler(SMALL).sample(logits, [draw]).token_ids[0] for draw in draws]


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    logits = logits_of(1, SMALL)

    def tokens(seed: int) -> list[int]:
        draws = [draw_of(SamplingParams(), seed=seed, position=position) for position in range(50)]
        return sampler(SMALL).sample(logits, draws).token_ids

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_logits_stay_as_they_are() -> None:
    logits = logits_of(8, SMALL)
    before = logits.clone()
    sampler(SMALL).sample(logits, mixed_draws(SMALL, 8))
    assert torch.equal(logits, before)


# --- faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("vocab", [SMALL, LARGE])
@pytest.mark.parametrize("value", [-torch.inf, torch.nan])
def test_a_row_without_a_possible_token_is_a_fault_of_that_draw_alone(
    value: float, vocab: int, temperature: float
) -> None:
    logits = logits_of(3, vocab)
    logits[1] = value
    draws = [draw_of(SamplingParams(temperature=temperature, top_p=0.9), row) for row in range(3)]
    sampled = sampler(vocab).sample(logits, draws)
    assert list(sampled.faults) == [1]
    others = sampler(vocab).sample(logits[[0, 2]], [draws[0], draws[2]._replace(logits_row=1)])
    assert [sampled.token_ids[0], sampled.token_ids[2]] == others.token_ids


# --- grammar masks -------------------------------------------------------------------------------------


def bits_of(allowed: list[list[int]], vocab: int) -> torch.Tensor:
    bits = np.zeros((len(allowed), (vocab + 31) // 32), dtype=np.uint32)
    for row, tokens in enumerate(allowed):
        for token in tokens:
            bits[row, token // 32] |= np.uint32(1) << np.uint32(token % 32)
    return torch.from_numpy(bits.view(np.int32))


@pytest.mark.parametrize("vocab", [SMALL, LARGE])
def test_only_tokens_in_the_mask_are_drawn(vocab: int) -> None:
    allowed = [[3, 31], [32, 49, 0]]
    masks = TokenMasks(bits_of(allowed, vocab), [1, None, 0, 0] * 50)
    hot = SamplingParams(temperature=2.0)
    draws = [draw_of(hot, 0, position=position) for position in range(200)]
    tokens = sampler(vocab).sample(logits_of(1, vocab), draws, masks).token_ids
    for token, row in zip(tokens, masks.row_of, strict=True):
        assert row is None or token in allowed[row]
    assert {token for token, row in zip(tokens, masks.row_of, strict=True) if row == 1} == {0, 32, 49}


def test_tokens_beyond_a_narrow_mask_are_not_allowed() -> None:
    masks = TokenMasks(torch.full((1, 1), -1, dtype=torch.int32), [0] * 100)
    draws = [draw_of(SamplingParams(temperature=2.0), position=position) for position in range(100)]
    assert max(sampler(SMALL).sample(logits_of(1, SMALL), draws, masks).token_ids) < 32


@pytest.mark.parametrize("temperature", [GREEDY_BELOW, 0.5, 2.0])
def test_the_least_penalty_there_is_makes_what_was_said_certain(temperature: float) -> None:
    logits = torch.linspace(-5.0, 90.0, 40)[None]
    params = SamplingParams(temperature=temperature, repetition_penalty=1e-6, seed=1)
    sampled = Sampler(40, "cpu").sample(logits, [Draw(0, params, 1, 0, 0, [25], [])])
    assert (sampled.token_ids, sampled.faults) == ([25], {})
    with pytest.raises(RequestError, match="repetition_penalty"):
        SamplingParams(repetition_penalty=1e-40)
