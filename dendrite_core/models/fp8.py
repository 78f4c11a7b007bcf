"""FP8 checkpoints: weights stored as float8_e4m3 with scales beside them, widened when they are read.

A stored weight means `weight * scale`, a scale for the tensor, for each row, or for each block of
`weight_block_size`. Three spellings are known, by the `quant_method` in config.json: fp8 (transformers'
fine-grained FP8, DeepSeek, Qwen: `weight_scale_inv`; AutoFP8: `weight_scale`), fbgemm_fp8 and
compressed-tensors' float-quantized (`weight_scale`). Activations and KV are not quantized here, so their
scales are not used and results are nearer to the unquantized model's. Products run in the engine's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.weights import Checkpoint, Shape

_SCALES = (".weight_scale_inv", ".weight_scale")
_UNUSED = (".input_scale", ".input_scale_ub", ".activation_scale", ".output_scale", ".k_scale", ".v_scale")
_STORED = "F8_E4M3"


class Fp8Checkpoint(Checkpoint):
    """A checkpoint some of whose weights are stored as FP8; `read` gives them as float32."""

    def __init__(self, folder: Path, quantization: Mapping[str, Any]) -> None:
        super().__init__(folder)
        groups = quantization.get("config_groups", {}).values()
        structures = (group["weights"].get("block_structure") for group in groups)
        block = quantization.get("weight_block_size") or next(filter(None, structures), ())
        self._block = tuple(block)

    def shapes(self) -> dict[str, Shape]:
        """Of the weights; scales belong to their weights."""
        beside = (*_SCALES, *_UNUSED)
        return {name: shape for name, shape in super().shapes().items() if not name.endswith(beside)}

    def read(self, name: str) -> Tensor:
        stored = super().read(name)
        if stored.dtype != torch.float8_e4m3fn:
            return stored
        scale = super().read(self._scale_of(name)).float()
        return stored.float().mul_(self._spread(name, scale, stored.shape))

    def kind(self, name: str) -> str:
        """The dtype a weight is given in, for the check of a checkpoint."""
        found = super().kind(name)
        return "F32" if found == _STORED and self._scale_of(name) else found

    def _scale_of(self, name: str) -> str:
        stem = name.removesuffix(".weight")
        found = next((stem + scale for scale in _SCALES if self.holds(stem + scale)), None)
        if found is None:
            raise ModelLoadError(f"{self.folder}: {name} is stored as FP8 without a weight_scale")
        return found

    def _spread(self, name: str, scale: Tensor, shape: torch.Size) -> Tensor:
        """A scale that multiplies weights `[out, in]`: `[1]`, `[out]`, `[out, 1]` or one for each block."""
        rows, columns = shape
        if scale.numel() == 1:
            return scale.reshape(1, 1)
        if scale.shape in ((rows,), (rows, 1)):
            return scale.reshape(rows, 1)
        if len(self._block) == 2:
            high, wide = self._block
            if scale.shape == (-(-rows // high), -(-columns // wide)):
                return scale.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :columns]
        raise ModelLoadError(
            f"{self.folder}: the scale of {name} has shape {list(scale.shape)}, "
            f"which fits neither {list(shape)} nor blocks of {list(self._block) or 'an unnamed size'}"
        )
