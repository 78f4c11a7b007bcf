"""What a decoder has to know of a model, read from a Hugging Face `config.json`.

Families are rows of a table: what a family leaves open, the checkpoint's config says; what neither
expresses is refused by name, so that nothing in a config is silently ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.rope import NotNative, RopeConfig

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu")


@dataclass(frozen=True, slots=True)
class Family:
    """One row: how a model type differs from Llama. None leaves a bias to the config's own field.

    `windows` names the rule for sliding windows: none, every layer, or the `layer_types` of the config.
    `defaults` are what transformers assumes for fields that a config.json leaves out.
    """

    qkv_bias: bool | None = None
    out_bias: bool | None = None
    mlp_bias: bool | None = False
    qk_norm: bool = False
    windows: str = "none"
    defaults: Mapping[str, Any] = field(default_factory=dict)


FAMILIES: Mapping[str, Family] = {
    "llama": Family(mlp_bias=None, defaults={"max_position_embeddings": 2048}),
    "mistral": Family(
        qkv_bias=False,
        out_bias=False,
        windows="every",
        defaults={"sliding_window": 4096, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    ),
    "qwen2": Family(qkv_bias=True, out_bias=False, windows="layers"),
    "qwen3": Family(qk_norm=True, windows="layers", defaults={"head_dim": 128}),
}

_COMMON_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer as far as serving it goes.

    `max_position` includes what rope scaling adds. `layer_windows` is how many tokens back each layer sees,
    itself included; None is all of them. `dtype` is that of the checkpoint. `experts` is among how many a
    token's are chosen, 0 where all tokens take the same way.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    layer_windows: tuple[int | None, ...]
    attention_scale: float
    eos_token_ids: tuple[int, ...]
    dtype: str
    experts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeConfig(ModelConfig):
    """What the native decoder computes with besides."""

    intermediate_size: int
    norm_eps: float
    rope: RopeConfig
    tie_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    hidden_act: str

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> NativeConfig:
        """Read a config.json, and generation_config.json for the tokens that end a text."""
        family = _family(hf)
        hf = {**_COMMON_DEFAULTS, **family.defaults, **hf}
        heads, layers = _positive(hf, "num_attention_heads"), _positive(hf, "num_hidden_layers")
        head_dim = int(hf.get("head_dim") or _positive(hf, "hidden_size") // heads)
        rope = RopeConfig.from_hf(hf)
        config = cls(
            family=str(hf["model_type"]),
            vocab_size=_positive(hf, "vocab_size"),
            hidden_size=_positive(hf, "hidden_size"),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=int(hf.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            intermediate_size=_positive(hf, "intermediate_size"),
            norm_eps=float(hf["rms_norm_eps"]),
            rope=rope,
            max_position=rope.longest(_positive(hf, "max_position_embeddings")),
            tie_embeddings=bool(hf["tie_word_embeddings"]),
            qkv_bias=_bias(family.qkv_bias, hf, "attention_bias"),
            out_bias=_bias(family.out_bias, hf, "attention_bias"),
            mlp_bias=_bias(family.mlp_bias, hf, "mlp_bias"),
            qk_norm=family.qk_norm,
            layer_windows=_layer_windows(family, hf, layers),
            eos_token_ids=end_tokens(hf, generation),
            hidden_act=str(hf["hidden_act"]),
            dtype=checkpoint_dtype(hf),
            attention_scale=head_dim**-0.5,
        )
        config._check()
        return config

    def _check(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ModelLoadError(
                f"num_attention_heads {self.num_heads} is not a multiple of"
                f" num_key_value_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ModelLoadError(f"head_dim {self.head_dim} is odd; rope needs pairs")
        if self.hidden_act not in ACTIVATIONS:
            raise NotNative(f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")

    @property
    def parameters(self) -> int:
        """Weights of the model, biases and norms left out."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * (attention + mlp) + embeddings


def end_tokens(hf: Mapping[str, Any], generation: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Ids that end a text; generation_config.json outranks config.json, as in transformers."""
    for source in (generation or {}, hf):
        found = source.get("eos_token_id")
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    return ()


def checkpoint_dtype(hf: Mapping[str, Any]) -> str:
    return str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch.")


def refuse_quantized(hf: Mapping[str, Any]) -> None:
    if quantization := hf.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise ModelLoadError(f"quantization_config with quant_method {method!r} is not supported")


def is_fp8(quantization: Mapping[str, Any]) -> bool:
    """Whether a `quantization_config` is of weights stored as FP8, which can be widened as they are read."""
    if quantization.get("quant_method") != "compressed-tensors":
        return quantization.get("quant_method") in ("fp8", "fbgemm_fp8")
    weights = [group.get("weights") or {} for group in quantization.get("config_groups", {}).values()]
    return bool(weights) and all((w.get("type"), w.get("num_bits")) == ("float", 8) for w in weights)


def _family(hf: Mapping[str, Any]) -> Family:
    model_type = str(hf.get("model_type"))
    if model_type not in FAMILIES:
        raise NotNative(f"model_type {model_type!r} has no native decoder")
    if not is_fp8(hf.get("quantization_config") or {}):
        refuse_quantized(hf)
    return FAMILIES[model_type]


def _positive(hf: Mapping[str, Any], name: str) -> int:
    value = hf.get(name)
    if not isinstance(value, int) or value <= 0:
        raise ModelLoadError(f"config.json: {name} must be a positive integer, not {value!r}")
    return value


def _bias(fixed: bool | None, hf: Mapping[str, Any], name: str) -> bool:
    return bool(hf[name]) if fixed is None else fixed


def _layer_windows(family: Family, hf: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """The sliding window of each layer; None sees everything."""
    window = hf["sliding_window"]
    if family.windows == "none" or window is None:
        return (None,) * layers
    if family.windows == "every":
        return (int(window),) * layers
    if not hf.get("use_sliding_window"):
        return (None,) * layers
    kinds = hf.get("layer_types")
    if kinds is None:
        return tuple(int(window) if i >= hf["max_window_layers"] else None for i in range(layers))
    known = {"full_attention": None, "sliding_attention": int(window)}
    if strange := sorted(set(kinds) - set(known)):
        raise NotNative(f"layer_types {', '.join(strange)} are not supported")
    if len(kinds) != layers:
        raise ModelLoadError(f"layer_types names {len(kinds)} layers of {layers}")
    return tuple(known[kind] for kind in kinds)


_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama-8m": {
        "model_type": "llama",
        "vocab_size": 4096,
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 768,
        "max_position_embeddings": 8192,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "llama-3-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
    },
    "llama-3.1-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}

SHAPES = tuple(_SHAPES)


def named_shape(name: str) -> NativeConfig:
    """The config behind `shape:<name>`: a known architecture whose weights are random."""
    if name not in _SHAPES:
        raise ModelLoadError(f"no shape {name!r}: there are {', '.join(SHAPES)}")
    return NativeConfig.from_hf(_SHAPES[name])
