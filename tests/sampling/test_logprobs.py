"""Reported log-probabilities are those of the raw logits, whatever changed the draw."""

from __future__ import annotations

import pytest
import torch

from dendrite_core.batching.batch import Draw, Score
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.logprobs import score
from dendrite_core.sampling.sampler import Sampler

LARGE = 5003


def logits_of(rows: int, vocab: int) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(1)) * 3


@pytest.mark.parametrize("vocab", [5, 50, LARGE])
def test_logprobs_are_log_softmax_of_the_raw_logits(vocab: int) -> None:
    logits = logits_of(3, vocab)
    params = SamplingParams(temperature=0.3, top_k=2, logit_bias={0: 9.0}, logprobs=20)
    sampled = Sampler(vocab, "cpu").sample(logits, [Draw(row, params, 1, 0, row) for row in range(3)])
    expected = torch.log_softmax(logits, -1)
    for row, entry in enumerate(sampled.logprobs):
        assert entry is not None
        logprob, top = entry
        assert logprob == pytest.approx(float(expected[row, sampled.token_ids[row]]))
        values, ids = expected[row].topk(min(20, vocab))
        assert [token for token, _ in top] == ids.tolist()
        assert [value for _, value in top] == pytest.approx(values.tolist())


def test_each_draw_gets_as_many_as_it_asked_for() -> None:
    logits = logits_of(2, 50)
    asked = [(1, None), (0, 0), (1, 5), (1, 1)]
    draws = [Draw(row, SamplingParams(logprobs=count), 1, i, 0) for i, (row, count) in enumerate(asked)]
    sampled = Sampler(50, "cpu").sample(logits, draws)
    assert sampled.logprobs[0] is None
    assert [len(entry[1]) for entry in sampled.logprobs if entry is not None] == [0, 5, 1]


def test_given_tokens_are_scored_like_drawn_ones() -> None:
    logits = logits_of(3, 50)
    scored = score(logits, [Score(2, 7, 3), Score(0, 49, 0)]).read()
    expected = torch.log_softmax(logits, -1)
    assert [logprob for logprob, _ in scored] == pytest.approx(
        [float(expected[2, 7]), float(expected[0, 49])]
    )
    assert [token for token, _ in scored[0][1]] == expected[2].topk(3).indices.tolist()
    assert scored[1][1] == []
