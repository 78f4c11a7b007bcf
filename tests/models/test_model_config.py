"""config.json as the families really ship it, and what is refused in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.config import SHAPES, NativeConfig, named_shape
from dendrite_core.models.loading import load_model
from dendrite_core.models.rope import NotNative
from tests.models.dense import dense_attend

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 96,
}

LLAMA_31_8B = {
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def test_llama_31_as_it_ships() -> None:
    config = NativeConfig.from_hf(LLAMA_31_8B)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (32, 8, 128)
    assert (config.rope.kind, config.rope.theta, config.rope.original_max_position) == ("llama3", 5e5, 8192)
    assert config.max_position == 131072
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert config.dtype == "bfloat16"
    assert config.layer_windows == (None,) * 32
    assert config.attention_scale == 128**-0.5
    assert config.parameters == pytest.approx(8.03e9, rel=1e-3)


def test_qwen25_with_yarn_and_its_unused_window() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
    ships = {"model_type": "qwen2", "max_position_embeddings": 32768, "use_sliding_window": False}
    config = NativeConfig.from_hf(SMALL | ships | {"sliding_window": 131072, "rope_scaling": scaling})
    assert config.max_position == 131072
    assert config.layer_windows == (None,) * 4
    assert (config.qkv_bias, config.out_bias) == (True, False)


def test_qwen3_may_have_heads_wider_than_hidden() -> None:
    config = NativeConfig.from_hf(SMALL | {"model_type": "qwen3", "head_dim": 128})
    assert config.head_dim == 128
    assert config.qk_norm


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_fields_left_out_mean_what_transformers_assumes(family: str) -> None:
    overrides = SMALL | ({"num_key_value_heads": 8} if family != "mistral" else {})
    theirs = AutoConfig.for_model(family, **overrides)
    ours = NativeConfig.from_hf(overrides | {"model_type": family})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 8)
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.max_position == theirs.max_position_embeddings
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.hidden_act == theirs.hidden_act
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
    window = getattr(theirs, "sliding_window", None)
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 4
    assert ours.layer_windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)


def test_windows_of_layers() -> None:
    def windows(family: str, **overrides: Any) -> tuple[int | None, ...]:
        return NativeConfig.from_hf(SMALL | {"model_type": family} | overrides).layer_windows

    assert windows("llama", sliding_window=8) == (None,) * 4
    assert windows("mistral", sliding_window=8) == (8,) * 4
    assert windows("mistral", sliding_window=None) == (None,) * 4
    some = {"use_sliding_window": True, "sliding_window": 8}
    assert windows("qwen2", **some, max_window_layers=2) == (None, None, 8, 8)
    kinds = ["full_attention", "sliding_attention"] * 2
    assert windows("qwen3", **some, layer_types=kinds) == (None, 8, None, 8)


def test_generation_config_outranks_config() -> None:
    hf = SMALL | {"model_type": "llama", "eos_token_id": 1}
    assert NativeConfig.from_hf(hf).eos_token_ids == (1,)
    assert NativeConfig.from_hf(hf, {"eos_token_id": [2, 3]}).eos_token_ids == (2, 3)
    assert NativeConfig.from_hf(SMALL | {"model_type": "llama"}).eos_token_ids == ()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hidden_size": None}, "hidden_size must be a positive integer, not None"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_what_no_decoder_could_serve_is_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelLoadError, match=named):
        NativeConfig.from_hf(SMALL | {"model_type": "llama"} | changed)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model_type": "gemma2"}, "gemma2"),
        ({"hidden_act": "xielu"}, "xielu"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["chunked_attention"] * 4},
            "chunked",
        ),
    ],
)
def test_what_transformers_may_serve_is_left_to_it(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(NotNative, match=named):
        NativeConfig.from_hf(SMALL | {"model_type": "llama"} | changed)


def test_named_shapes_are_what_their_names_say() -> None:
    assert named_shape("llama-8m").parameters == pytest.approx(8.4e6, rel=0.01)
    assert named_shape("qwen3-0.6b").parameters == pytest.approx(0.596e9, rel=0.01)
    assert named_shape("llama-3-8b").parameters == pytest.approx(8.03e9, rel=0.001)
    with pytest.raises(ModelLoadError, match=", ".join(SHAPES)):
        named_shape("llama-9m")


def test_a_shape_is_loaded_with_random_weights_of_a_seed() -> None:
    tokens, positions = torch.arange(5), torch.arange(5)
    loaded = [load_model("shape:llama-8m", max_length=64) for _ in range(2)]
    assert loaded[0].folder is None
    assert "random" in loaded[0].source
    one, two = (m.decoder.logits(m.decoder(tokens, positions, dense_attend(m.decoder))) for m in loaded)
    assert one.shape == (5, 4096)
    torch.testing.assert_close(one, two)
