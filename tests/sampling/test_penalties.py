"""Every penalty against transformers' own processor where it has one, else against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

from dendrite_core.batching.batch import Draw
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.penalties import adjusted
from tests.sampling.reference import penalised

VOCAB = 40
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=60)
small = st.floats(-2.0, 2.0)


def logits_of(rows: int) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(rows)) * 3


def draw_of(row: int = 0, *, prompt: list[int] = [], output: list[int] = [], **params: object) -> Draw:  # noqa: B006
    return Draw(row, SamplingParams(**params), 0, 0, 0, prompt, output)  # type: ignore[arg-type]


@given(tokens, tokens, st.floats(0.1, 2.0))
@settings(max_examples=50, deadline=None)
def test_repetition_penalty_is_transformers(prompt: list[int], output: list[int], penalty: float) -> None:
    logits = logits_of(1)
    ours = adjusted(logits, [draw_of(prompt=prompt, output=output, repetition_penalty=penalty)], None)
    ids = torch.tensor([prompt + output], dtype=torch.long)
    torch.testing.assert_close(ours, RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone()))


def test_logit_bias_is_transformers() -> None:
    logits = logits_of(1)
    bias = {3: 2.5, 39: -100.0, 0: 0.25}
    theirs = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    expected = theirs(torch.zeros(1, 1, dtype=torch.long), logits.clone())
    torch.testing.assert_close(adjusted(logits, [draw_of(logit_bias=bias)], None), expected)


rows = st.lists(
    st.tuples(
        tokens,
        tokens,
        small,
        small,
        st.floats(0.5, 2.0),
        st.dictionaries(st.integers(0, VOCAB - 1), small),
        st.none() | st.lists(st.integers(0, VOCAB - 1), min_size=1),
    ),
    min_size=1,
    max_size=6,
)


@given(rows, tokens)
@settings(max_examples=100, deadline=None)
def test_all_of_them_together_are_the_reference_row_by_row(rows: list[tuple], banned: list[int]) -> None:
    draws = [
        draw_of(
            row,
            prompt=prompt,
            output=output,
            presence_penalty=presence,
            frequency_penalty=frequency,
            repetition_penalty=repetition,
            logit_bias=bias,
            allowed_token_ids=allowed and tuple(allowed),
        )._replace(banned=banned if row % 2 else ())
        for row, (prompt, output, presence, frequency, repetition, bias, allowed) in enumerate(rows)
    ]
    logits = logits_of(len(rows))
    ours = adjusted(logits, draws, None).numpy()
    for row, draw in enumerate(draws):
        expected = penalised(logits[row].numpy().astype(np.float64), draw)
        np.testing.assert_allclose(ours[row], expected, rtol=1e-5, atol=1e-5)


def test_presence_counts_once_frequency_every_time_and_the_prompt_not_at_all() -> None:
    logits = torch.zeros(2, VOCAB)
    draws = [
        draw_of(0, prompt=[1, 2], output=[2, 2, 3], presence_penalty=1.0),
        draw_of(1, prompt=[1, 2], output=[2, 2, 3], frequency_penalty=0.5),
    ]
    changed = adjusted(logits, draws, None)
    assert changed[0, :4].tolist() == [0.0, 0.0, -1.0, -1.0]
    assert changed[1, :4].tolist() == [0.0, 0.0, -1.0, -0.5]


def test_rows_that_ask_for_nothing_are_passed_through_uncopied() -> None:
    logits = logits_of(2)
    assert adjusted(logits, [draw_of(0), draw_of(1)], None) is logits


@pytest.mark.parametrize("history", [(), [], np.array([], dtype=np.int32)])
def test_an_empty_history_is_no_penalty(history: list[int]) -> None:
    logits = logits_of(1)
    draw = draw_of(repetition_penalty=1.5, presence_penalty=1.0)._replace(prompt=history, output=history)
    assert torch.equal(adjusted(logits, [draw], None), logits)
