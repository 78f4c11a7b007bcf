"""Rope's tables are those of transformers, and positions past the original length follow one rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.loading import load_model
from dendrite_core.models.rope import (
    NotNative,
    RopeConfig,
    interleaved,
    inverse_frequencies,
    rotate,
    rotations,
)
from tests.checkpoints import make_checkpoint, quietly, reference
from tests.models.dense import dense_attend

HEAD_DIM = 64

LLAMA31 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
SETTINGS: dict[str, tuple[float, dict[str, Any]]] = {
    "linear": (10000.0, {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (10000.0, {"rope_type": "dynamic", "factor": 2.0}),
    "llama-3.1": (500000.0, LLAMA31),
    "llama-3.2": (500000.0, LLAMA31 | {"factor": 32.0}),
    "yarn-qwen2.5": (1e6, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    "yarn-given-magnitude": (1e4, {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.7}),
    "yarn-mscale": (1e4, {"rope_type": "yarn", "factor": 40.0, "mscale": 0.7, "mscale_all_dim": 1.0}),
    "yarn-betas": (1e4, {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16, "beta_slow": 2}),
    "yarn-not-truncated": (1e4, {"rope_type": "yarn", "factor": 8.0, "truncate": False}),
    "yarn-factor-one": (1e4, {"rope_type": "yarn", "factor": 1.0}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_frequencies_are_those_of_transformers(case: str) -> None:
    theta, scaling = SETTINGS[case]
    hf = {"max_position_embeddings": 4096, "rope_parameters": scaling | {"rope_theta": theta}}
    theirs = LlamaConfig(**hf, hidden_size=4 * HEAD_DIM, num_attention_heads=4, head_dim=HEAD_DIM)
    expected, magnitude = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs)
    found, found_magnitude = inverse_frequencies(RopeConfig.from_hf(hf), HEAD_DIM)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert found_magnitude == pytest.approx(magnitude)


@pytest.mark.parametrize("case", SETTINGS)
def test_the_older_layout_means_the_same(case: str) -> None:
    theta, scaling = SETTINGS[case]
    older = {key: value for key, value in scaling.items() if key != "rope_type"}
    old = {"rope_theta": theta, "rope_scaling": older | {"type": scaling["rope_type"]}}
    new = {"rope_parameters": scaling | {"rope_theta": theta}}
    length = {"max_position_embeddings": 4096}
    assert RopeConfig.from_hf(old | length) == RopeConfig.from_hf(new | length)


def test_no_scaling_is_the_plain_rule() -> None:
    rope = RopeConfig.from_hf({"rope_theta": 100.0, "rope_scaling": None, "max_position_embeddings": 32})
    frequencies, magnitude = inverse_frequencies(rope, 4)
    assert frequencies.tolist() == pytest.approx([1.0, 0.1])
    assert magnitude == 1.0


def test_the_context_a_scaling_promises() -> None:
    def longest(**scaling: Any) -> int:
        hf = {"max_position_embeddings": 1024, "rope_parameters": scaling}
        return RopeConfig.from_hf(hf).longest(1024)

    assert longest(rope_type="default") == longest(rope_type="linear", factor=4.0) == 1024
    assert longest(rope_type="dynamic", factor=4.0) == 4096
    assert longest(rope_type="yarn", factor=4.0, original_max_position_embeddings=512) == 2048
    assert longest(rope_type="yarn", factor=1.5, original_max_position_embeddings=512) == 1024


def halves_rotated(x: Tensor, angles: Tensor) -> Tensor:
    """The textbook rotation of `[T, n, d]` whose pairs are d / 2 apart, by `[T, d / 2]`."""
    cos, sin = (f(angles).repeat(1, 2)[:, None] for f in (torch.cos, torch.sin))
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rotating_interleaved_heads_is_the_textbook_rotation(dtype: torch.dtype) -> None:
    rope = RopeConfig(theta=100.0)
    x = torch.randn(7, 3, 16, dtype=dtype)
    order = interleaved(16)
    expected = halves_rotated(x.double(), torch.arange(7)[:, None] * inverse_frequencies(rope, 16)[0])
    found = rotate(x[..., order].clone(), rotations(rope, 16, 7)[:, None])
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.double(), expected[..., order], **tolerance)
    assert found.dtype is dtype


def test_dynamic_positions_past_the_original_length_are_those_of_cached_generation(tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
    folder = make_checkpoint(
        tmp_path, "llama", tokenizer=False, rope_parameters=scaling, max_position_embeddings=32
    )
    prompt = torch.randint(0, 320, (24,), generator=torch.Generator().manual_seed(1))
    expected = quietly(
        reference(folder).generate,
        prompt[None],
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(prompt) :]
    loaded = load_model(folder)
    assert loaded.config.max_position == 128
    attend, tokens, positions, made = dense_attend(loaded.decoder), prompt, torch.arange(24), []
    for _ in range(40):
        hidden = loaded.decoder(tokens, positions, attend)
        tokens = loaded.decoder.logits(hidden[-1:]).argmax(-1)
        positions = positions[-1:] + 1
        made.append(int(tokens))
    assert made == expected.tolist()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rope_type": "linear"}, "needs factor"),
        ({"rope_type": "llama3", "factor": 2.0}, "low_freq_factor, high_freq_factor"),
        ({"rope_type": "yarn"}, "needs factor"),
    ],
)
def test_settings_that_lack_something_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelLoadError, match=named):
        RopeConfig.from_hf({"rope_scaling": settings})


@pytest.mark.parametrize(
    ("hf", "named"),
    [
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, "longrope"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "by layer type"),
    ],
)
def test_what_only_transformers_expresses_is_left_to_it(hf: dict[str, Any], named: str) -> None:
    with pytest.raises(NotNative, match=named):
        RopeConfig.from_hf(hf)
