"""Where weights come from: a folder of safetensors, read strictly, or random numbers of the right shape.

A checkpoint is memory-mapped and read one tensor at a time. Every weight that is missing, unexpected or
mis-shaped is named in one error, before anything is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.config import NativeConfig

EMBEDDING, FINAL_NORM, LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

_NAMED_AT_MOST = 20
_HARMLESS = ("rotary_emb.inv_freq",)
_FLOATS = ("F64", "F32", "F16", "BF16")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

Shape = tuple[int, ...]


class Weights(Protocol):
    """Tensors by the names of the checkpoint."""

    def read(self, name: str) -> Tensor: ...


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def expected_shapes(config: NativeConfig) -> dict[str, Shape]:
    """Every weight a checkpoint of this config must hold, and nothing else."""
    shapes: dict[str, Shape] = {
        EMBEDDING: (config.vocab_size, config.hidden_size),
        FINAL_NORM: (config.hidden_size,),
    }
    if not config.tie_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, config.hidden_size)
    one_layer = _layer_shapes(config)
    for layer in range(config.num_layers):
        shapes |= {layer_prefix(layer) + name: shape for name, shape in one_layer.items()}
    return shapes


def _layer_shapes(config: NativeConfig) -> dict[str, Shape]:
    hidden, inner, d = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_heads * d, config.num_kv_heads * d
    linears = {
        "self_attn.q_proj": (queries, hidden, config.qkv_bias),
        "self_attn.k_proj": (keys, hidden, config.qkv_bias),
        "self_attn.v_proj": (keys, hidden, config.qkv_bias),
        "self_attn.o_proj": (hidden, queries, config.out_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    shapes: dict[str, Shape] = dict.fromkeys(
        ("input_layernorm.weight", "post_attention_layernorm.weight"), (hidden,)
    )
    for name, (rows, columns, biased) in linears.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if biased:
            shapes[f"{name}.bias"] = (rows,)
    if config.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (d,), "self_attn.k_norm.weight": (d,)}
    return shapes


class Checkpoint:
    """The safetensors files of a folder, memory-mapped; `read` gives a view that a caller copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._home: dict[str, str] = {}
        for file in _weight_files(folder):
            try:
                opened: Any = safe_open(folder / file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ModelLoadError(f"{folder / file} cannot be read: {error}") from error
            self._files[file] = opened
            self._home |= dict.fromkeys(opened.keys(), file)

    def shapes(self) -> dict[str, Shape]:
        return {name: tuple(self._slice(name).get_shape()) for name in self._home}

    def _slice(self, name: str) -> Any:
        return self._files[self._home[name]].get_slice(name)

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._files[self._home[name]].get_tensor(name)
        return tensor

    def holds(self, name: str) -> bool:
        return name in self._home

    def kind(self, name: str) -> str:
        """The dtype of a tensor, as safetensors names it."""
        return str(self._slice(name).get_dtype())

    def settled(self, config: NativeConfig) -> NativeConfig:
        """The config as the weights have it: a head that differs from the embedding is not tied to it."""
        tied = config.tie_embeddings and LM_HEAD in self._home
        if tied and not torch.equal(self.read(LM_HEAD), self.read(EMBEDDING)):
            return replace(config, tie_embeddings=False)
        return config

    def check(self, config: NativeConfig) -> None:
        """Raise one error that names everything wrong with this checkpoint for `config`."""
        found, expected = self.shapes(), expected_shapes(config)
        harmless = {name for name in found if name.endswith(_HARMLESS)} | {LM_HEAD}
        problems = [f"missing {name}" for name in expected if name not in found]
        problems += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys() - harmless)]
        problems += [
            f"{name} has shape {list(found[name])}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ]
        problems += [
            f"{name} is stored as {kind}"
            for name in expected.keys() & found.keys()
            if (kind := self.kind(name)) not in _FLOATS
        ]
        if problems:
            raise ModelLoadError(f"{self.folder} does not fit its config.json: {_listed(problems)}")


class RandomWeights:
    """Weights drawn from a seed, for shapes without a checkpoint; made where they are used."""

    def __init__(self, config: NativeConfig, dtype: torch.dtype, device: torch.device, seed: int = 0) -> None:
        self._shapes = expected_shapes(config)
        self._dtype, self._device = dtype, device
        self._generator = torch.Generator(device).manual_seed(seed)

    def read(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        return tensor.normal_(std=0.02, generator=self._generator)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file of a checkpoint; a file that is none is the checkpoint's fault."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path} does not hold a JSON object")
    return found


def _weight_files(folder: Path) -> list[str]:
    """File names that hold the weights: those of the index, or the single file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _indexed_files(folder, read_json(index))
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if any(file for pattern in _PICKLES for file in folder.glob(pattern)):
        raise ModelLoadError(
            f"{folder} holds pickled weights only (.bin, .pt), which can run code when read:"
            " convert them to safetensors (save_pretrained does)"
        )
    raise ModelLoadError(f"{folder} holds neither model.safetensors nor model.safetensors.index.json")


def _indexed_files(folder: Path, index: Mapping[str, Any]) -> list[str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelLoadError(f"{folder}: model.safetensors.index.json has no weight_map")
    files = sorted(set(weight_map.values()))
    if outside := [file for file in files if Path(file).name != file]:
        raise ModelLoadError(f"{folder}: the index names files outside the folder: {_listed(outside)}")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ModelLoadError(f"{folder}: the index names files that are not there: {_listed(missing)}")
    return files


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    return f"{shown}, and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else shown
