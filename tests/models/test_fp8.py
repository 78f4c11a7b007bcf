"""FP8 checkpoints: the numbers that are stored are the numbers that are computed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.loading import load_model, open_checkpoint
from tests.checkpoints import make_checkpoint, quietly, reference
from tests.models.dense import dense_attend

TOKENS = torch.arange(10, 30)
LARGEST = 448.0
BLOCK = (32, 48)


def fp8(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def by_tensor(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """FP8 weights, the scale as it is stored, and the scale of each weight."""
    scale = weight.abs().max() / LARGEST
    return fp8(weight, scale), scale, scale.expand_as(weight)


def by_row(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / LARGEST
    return fp8(weight, scale), scale, scale.expand_as(weight)


def by_block(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One block after the other; the last ones may be smaller."""
    (rows, columns), (high, wide) = weight.shape, BLOCK
    scale, each = torch.empty(-(-rows // high), -(-columns // wide)), torch.empty_like(weight)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            part = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
            scale[i, j] = each[part] = weight[part].abs().max() / LARGEST
    return fp8(weight, each), scale, each


FLOATS = {"type": "float", "num_bits": 8}
COMPRESSED = {"config_groups": {"group_0": {"weights": FLOATS, "targets": ["Linear"]}}}
KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "fine-grained": (by_block, "weight_scale_inv", {"quant_method": "fp8", "weight_block_size": list(BLOCK)}),
    "static": (by_tensor, "weight_scale", {"quant_method": "fp8", "activation_scheme": "static"}),
    "fbgemm": (by_row, "weight_scale", {"quant_method": "fbgemm_fp8"}),
    "compressed-tensors": (by_row, "weight_scale", {"quant_method": "compressed-tensors", **COMPRESSED}),
}


def quantize(folder: Path, kind: str) -> dict[str, Tensor]:
    """Store the linears of a checkpoint as FP8; what the stored numbers mean."""
    how, scale_name, config = KINDS[kind]
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stored[name] = meant[name] = tensor
        if "proj" in name and name.endswith("weight"):
            stored[name], scale, each = how(tensor)
            stored[f"{name.removesuffix('weight')}{scale_name}"] = scale.contiguous()
            meant[name] = stored[name].float() * each
            if kind == "static":
                stored[f"{name.removesuffix('weight')}input_scale"] = torch.ones(())
    save_file(stored, folder / "model.safetensors")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    return meant


def logits(folder: Path) -> Tensor:
    decoder = load_model(folder).decoder
    return decoder.logits(decoder(TOKENS, torch.arange(len(TOKENS)), dense_attend(decoder)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_spelling_is_read(kind: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "fp8", "qwen3", tokenizer=False, intermediate_size=112)
    meant = quantize(folder, kind)
    checkpoint = open_checkpoint(folder)
    for name, tensor in meant.items():
        torch.testing.assert_close(checkpoint.read(name).float(), tensor, rtol=1e-6, atol=0)
    plain = make_checkpoint(tmp_path / "plain", "qwen3", tokenizer=False, intermediate_size=112)
    save_file(meant, plain / "model.safetensors", {"format": "pt"})
    with torch.inference_mode():
        expected = reference(plain)(TOKENS[None]).logits[0]
    torch.testing.assert_close(logits(folder), expected, rtol=1e-3, atol=1e-3)


def test_transformers_reads_the_same_fine_grained_checkpoint(tmp_path: Path) -> None:
    """An independent reader: without a GPU transformers widens it too, where blocks divide the weights."""
    from transformers import AutoModelForCausalLM

    folder = make_checkpoint(tmp_path, "llama", tokenizer=False, hidden_size=96, head_dim=48)
    quantize(folder, "fine-grained")
    model = quietly(AutoModelForCausalLM.from_pretrained, folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(TOKENS[None]).logits[0].float()
    torch.testing.assert_close(logits(folder), expected, rtol=1e-2, atol=1e-2)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama", tokenizer=False)
    quantize(folder, "fine-grained")
    name = "model.layers.1.mlp.up_proj"
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {f"{name}.weight_scale_inv": torch.ones(7, 7)}, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match=rf"scale of {name}.weight has shape \[7, 7\]"):
        load_model(folder)
    del tensors[f"{name}.weight_scale_inv"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match=f"{name}.weight is stored as FP8 without a weight_scale"):
        load_model(folder)


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_are_refused(bits: int, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama", tokenizer=False)
    weights = {"type": "int", "num_bits": bits}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    with pytest.raises(ModelLoadError, match="compressed-tensors"):
        load_model(folder)
