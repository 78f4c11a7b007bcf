# mypy: disable-error-code="no-untyped-call"
"""The decoder's forward pass on a CUDA device, in few launches that can be captured in a graph.

One row is bound by reading the weights: every product computes the norm before it and the gating or the
residual sum after it on the way. More rows go through cuBLAS with fused kernels between the products.
Weights, their order and every rounding to the activations' type are those of `decoder._Forward`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from dendrite_core.models.config import NativeConfig
from dendrite_core.models.linear import Kernel, Plain, Weight
from dendrite_core.models.parts import Parts

_FEW_ROWS = 64


@runtime_checkable
class FusedAttend(Protocol):
    """Attention that rotates and stores by itself."""

    def attend_products(
        self,
        layer: int,
        qkv: Tensor,
        positions: Tensor,
        rotations: Tensor,
        head_norm: Tensor | None,
        eps: float,
    ) -> Tensor:
        """`qkv [T, (heads + 2 * kv_heads) * d]` as they come out of the product -> `[T, heads * d]`."""


def expressible(config: NativeConfig, dtype: torch.dtype) -> bool:
    """Whether the fused pass can compute this model."""
    return (
        dtype in (torch.bfloat16, torch.float16)
        and config.hidden_act == "silu"
        and not config.mlp_bias
        and config.hidden_size % 128 == 0
        and config.intermediate_size % 128 == 0
        and (config.num_heads * config.head_dim) % 128 == 0
    )


class CudaForward:
    """`forward(token_ids, positions, attend) -> hidden [T, hidden]` and `logits(hidden) -> [R, vocab]`."""

    def __init__(self, config: NativeConfig, parts: Parts) -> None:
        # Triton is there only where CUDA is.
        import triton
        
        from dendrite_core.models.cuda import kernels

        self.config, self.parts = config, parts
        self.kernels, self.cdiv = kernels, triton.cdiv
        self.pdl = True
        self.rotations = torch.view_as_real(parts.rotations).flatten(1)

    def __call__(self, token_ids: Tensor, positions: Tensor, attend: FusedAttend) -> Tensor:
        x = self.parts.embedding.index_select(0, token_ids)
        run = self._one if x.shape[0] == 1 else self._many
        return run(x, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 `[R, vocab]`, from products rounded to the activations' type."""
        weight = _weight(self.parts.head(hidden.shape[0]))
        if hidden.shape[0] == 1:
            return self._vector(hidden, weight).float()
        if hidden.shape[0] <= _FEW_ROWS:
            return self._few(hidden, weight).float()
        return F.linear(hidden, weight.matrix, weight.bias).float()

    def _one(self, x: Tensor, positions: Tensor, attend: FusedAttend) -> Tensor:
        for index, layer in enumerate(self.parts.layers(1)):
            qkv = self._vector(x, _weight(layer.qkv), norm=layer.attention_norm)
            mixed = self._attend(attend, index, qkv, positions, layer.head_norm)
            x = self._vector(mixed, _weight(layer.out), residual=x)
            gated = self._vector(x, _weight(layer.gate_up), norm=layer.mlp_norm, gated=True)
            x = self._vector(gated, _weight(layer.down), residual=x)
        return self._norm(x, None, self.parts.final_norm)

    def _many(self, x: Tensor, positions: Tensor, attend: FusedAttend) -> Tensor:
        added: Tensor | None = None
        for index, layer in enumerate(self.parts.layers(x.shape[0])):
            qkv = layer.qkv(self._norm(x, added, layer.attention_norm))
            added = layer.out(self._attend(attend, index, qkv, positions, layer.head_norm))
            gate_up = layer.gate_up(self._norm(x, added, layer.mlp_norm))
            added = layer.down(self._gate(gate_up))
        return self._norm(x, added, self.parts.final_norm)

    def _attend(
        self, attend: FusedAttend, index: int, qkv: Tensor, positions: Tensor, head_norm: Tensor | None
    ) -> Tensor:
        return attend.attend_products(index, qkv, positions, self.rotations, head_norm, self.config.norm_eps)

    def _norm(self, x: Tensor, added: Tensor | None, weight: Tensor | None) -> Tensor:
        """RMS norm of `x + added`, which x becomes."""
        assert weight is not None
        rows, width = x.shape
        out = torch.empty_like(x)
        block = 1 << (width - 1).bit_length()
        self.kernels.rms_norm[(rows,)](
            x, x if added is None else added, weight, out, self.config.norm_eps,
            width, block, added is not None, True, num_warps=8 if block > 2048 else 4, launch_pdl=True,
        )  # fmt: skip
        return out

    def _gate(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up: `[T, 2 * inner] -> [T, inner]`."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self.kernels.silu_mul[(rows, self.cdiv(width, 2048))](
            gate_up, out, width, 2048, True, num_warps=4, launch_pdl=True
        )
        return out

    def _vector(
        self,
        x: Tensor,
        weight: Weight,
        *,
        norm: Tensor | None = None,
        residual: Tensor | None = None,
        gated: bool = False,
    ) -> Tensor:
        """One row `[1, K]` times `[N, K]`, gated `[2 * N, K]` -> `[1, N]`."""
        matrix, bias = weight.matrix, weight.bias
        width, inner = matrix.shape[0] // (2 if gated else 1), matrix.shape[1]
        out = x.new_empty(1, width)
        rows, step, warps = vector_tile(inner, gated)
        self.kernels.vector_product[(self.cdiv(width, rows),)](
            x, matrix, _or(bias, x), _or(residual, x), _or(norm, x), out, width, self.config.norm_eps,
            inner, rows, step, norm is not None, gated, bias is not None, residual is not None, self.pdl,
            num_warps=warps, launch_pdl=self.pdl,
        )  # fmt: skip
        return out

    def _few(self, x: Tensor, weight: Weight) -> Tensor:
        """`[T, K]` times `[N, K]` for few rows and a matrix that is far larger than the L2 cache."""
        rows, inner = x.shape
        out = x.new_empty(rows, weight.matrix.shape[0])
        tile, width, step, stages = (16, 64, 128, 4) if rows <= 16 else (64, 128, 64, 4)
        self.kernels.product[(self.cdiv(out.shape[1], width),)](
            x, inner, weight.matrix, _or(weight.bias, x), x, x, out, out.shape[1], rows, out.shape[1], 0.0,
            inner, tile, width, step, stages, False, False, weight.bias is not None, False, 0, True,
            num_warps=4, launch_pdl=True,
        )  # fmt: skip
        return out


def vector_tile(inner: int, gated: bool) -> tuple[int, int, int]:
    """Rows of the weight, columns at a time and warps of one program of `vector_product`, as measured."""
    step = min(inner & -inner, 512)
    rows = 4096 // step
    return (rows // 4 if gated else rows), step, 4


def _weight(kernel: Kernel) -> Weight:
    assert isinstance(kernel, Plain), "on a CUDA device products are plain"
    return kernel.weight


def _or(tensor: Tensor | None, other: Tensor) -> Any:
    """A pointer the kernel does not read still has to be one."""
    return other if tensor is None else tensor
