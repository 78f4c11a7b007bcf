"""Families without a native decoder run through transformers' own code with our attention, or are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.loading import load_model
from dendrite_core.models.transformers_decoder import TransformersDecoder
from tests.checkpoints import make_checkpoint, quietly, reference
from tests.models.dense import dense_attend

LENGTH = 40
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": (
        "gemma2",
        {"attn_logit_softcapping": None, "query_pre_attn_scalar": 20, "sliding_window": 8, "pad_token_id": 0},
    ),
    "phi3": ("phi3", {"pad_token_id": 0, "sliding_window": 8}),
    "olmo2": ("olmo2", {"pad_token_id": 0}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "granite": ("granite", {"attention_multiplier": 0.3, "logits_scaling": 4.0}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.5}),
    "qwen3_moe": ("qwen3_moe", _EXPERTS | {"pad_token_id": 0}),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),
}


@pytest.mark.parametrize("case", SERVED)
def test_logits_and_greedy_tokens_equal_its_own(case: str, tmp_path: Path) -> None:
    family, overrides = SERVED[case]
    folder = make_checkpoint(tmp_path, family, tokenizer=False, **overrides)
    loaded, model = load_model(folder), reference(folder)
    decoder = loaded.decoder
    assert "transformers" in loaded.source
    assert family in loaded.source
    tokens = torch.randint(0, 320, (LENGTH,), generator=torch.Generator().manual_seed(1))
    attend, made = dense_attend(decoder), []
    hidden = decoder(tokens, torch.arange(LENGTH), attend)
    with torch.no_grad():
        expected = model(tokens[None]).logits[0]
    torch.testing.assert_close(decoder.logits(hidden), expected, rtol=1e-4, atol=5e-5)
    for step in range(8):
        made.append(int(decoder.logits(hidden[-1:]).argmax()))
        hidden = decoder(torch.tensor(made[-1:]), torch.tensor([LENGTH + step]), attend)
    generated = quietly(
        model.generate, tokens[None], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert made == generated[0, LENGTH:].tolist()


def test_what_a_model_says_of_itself_is_served(tmp_path: Path) -> None:
    overrides = SERVED["gemma2"][1]
    loaded = load_model(make_checkpoint(tmp_path, "gemma2", tokenizer=False, **overrides))
    config, decoder = loaded.config, loaded.decoder
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (3, 4, 2, 16)
    assert decoder.layer_windows == list(config.layer_windows) == [8, None, 8]
    assert decoder.attention_scale == config.attention_scale == pytest.approx(20**-0.5)
    assert config.max_position == 512
    assert config.eos_token_ids == (2,)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a-score-cap": ("gemma2", {"pad_token_id": 0}, "softcap"),
    "sinks": ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1, "pad_token_id": 0}, "s_aux"),
    "recurrent": ("mamba", {"state_size": 4, "pad_token_id": 0}, "0 of 3 layers"),
    "no-interface": ("bloom", {}, "0 of 3 layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_attend_cannot_express_is_refused_by_name(case: str, tmp_path: Path) -> None:
    family, overrides, named = REFUSED[case]
    folder = make_checkpoint(tmp_path, family, tokenizer=False, **overrides)
    with pytest.raises(ModelLoadError, match=named):
        load_model(folder)


def test_a_model_that_differs_with_our_attention_is_refused(tmp_path: Path) -> None:
    """Whatever a family does besides, its logits are compared with its own before it is served."""
    decoder = TransformersDecoder(
        make_checkpoint(tmp_path, "olmo2", tokenizer=False, pad_token_id=0),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    decoder.attention_scale *= 0.5
    decoder._sites = {m: replace(s, scale=decoder.attention_scale) for m, s in decoder._sites.items()}
    with pytest.raises(ModelLoadError, match="computes something else"):
        decoder._check_against_own_attention()


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "of-tomorrow"}')
    with pytest.raises(ModelLoadError, match="of-tomorrow"):
        load_model(tmp_path)
