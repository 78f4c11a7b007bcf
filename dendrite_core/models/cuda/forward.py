# mypy: disable-error-code="no-untyped-call"
"""The decoder's forward pass on a CUDA device, in few launches that can be captured in a graph.

One row is bound by reading the weights: every product computes the norm before it and the gating or the
residual sum after it on the way. A few rows are bound by the same: there a product is cut along its inner
dimension until it fills the card, and the kernel after it, a norm or the rotation, adds up the parts. Many
rows go through cuBLAS with fused kernels between the products. Weights, their order and every rounding to
the activations' type are those of `decoder._Forward`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dendrite_core.models.config import NativeConfig
from dendrite_core.models.cuda.card import card_of
from dendrite_core.models.linear import Kernel, Plain, Weight
from dendrite_core.models.parts import Layer, Parts

_FEW_ROWS = 64


@runtime_checkable
class FusedAttend(Protocol):
    """Attention that rotates and stores by itself."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The plain form, `decoder.Attend`."""

    def attend_products(
        self,
        layer: int,
        qkv: Tensor,
        positions: Tensor,
        rotations: Tensor,
        head_norm: Tensor | None,
        eps: float,
    ) -> Tensor:
        """`qkv [T, (heads + 2 * kv_heads) * d]` as they come out of the product -> `[T, heads * d]`.

        They may come as the product's parts, float32 `[parts, T, ...]`, still to be added up.
        """

    def target(self, layer: int) -> tuple[Tensor, Tensor]:
        """Where K and V belong: a layer `[2 * kv_heads, places, d]` of the store, the place of each token."""

    def run_stored(self, layer: int, q: Tensor) -> Tensor:
        """What is left of `attend_products` for rotated queries `[T, heads * d]`, K and V being stored."""


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
        self.pdl = card_of(parts.embedding.device).early
        self.rotations = torch.view_as_real(parts.rotations).flatten(1)

    def __call__(self, token_ids: Tensor, positions: Tensor, attend: FusedAttend) -> Tensor:
        x = self.parts.embedding.index_select(0, token_ids)
        rows = x.shape[0]
        run = self._one if rows == 1 else self._few if rows <= _FEW_ROWS else self._many
        return run(x, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """`[R, vocab]` in the activations' type: who reads them computes in float32."""
        head = self.parts.head(hidden.shape[0])
        weight = _weight(head)
        if hidden.shape[0] == 1:
            return self._vector(hidden, weight)
        if hidden.shape[0] <= _FEW_ROWS:
            found = few_product(hidden, weight)
            return found if found.dim() == 2 else found.sum(0).to(hidden.dtype)
        return head(hidden)

    def _one(self, x: Tensor, positions: Tensor, attend: FusedAttend) -> Tensor:
        for index, layer in enumerate(self.parts.layers(1)):
            mixed = self._attend_one(attend, index, layer, x, positions)
            x = self._vector(mixed, _weight(layer.out), residual=x)
            gated = self._vector(x, _weight(layer.gate_up), norm=layer.mlp_norm, gated=True)
            x = self._vector(gated, _weight(layer.down), residual=x)
        return self._norm(x, None, self.parts.final_norm)

    def _few(self, x: Tensor, positions: Tensor, attend: FusedAttend) -> Tensor:
        added: Tensor | None = None
        for index, layer in enumerate(self.parts.layers(x.shape[0])):
            qkv = few_product(self._norm(x, added, layer.attention_norm), _weight(layer.qkv))
            mixed = self._attend(attend, index, qkv, positions, layer.head_norm)
            added = few_product(mixed, _weight(layer.out))
            gated = few_product(self._norm(x, added, layer.mlp_norm), _weight(layer.gate_up), gated=True)
            added = few_product(gated, _weight(layer.down))
        return self._norm(x, added, self.parts.final_norm)

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

    def _attend_one(
        self, attend: FusedAttend, index: int, layer: Layer, x: Tensor, positions: Tensor
    ) -> Tensor:
        """Attend one row; norm, product, rotation and storing are one launch where heads have no norm."""
        assert layer.attention_norm is not None
        weight, config = _weight(layer.qkv), self.config
        rows, step, warps = vector_tile(config.hidden_size, normed=True)
        if layer.head_norm is not None or config.head_dim % rows:
            qkv = self._vector(x, weight, norm=layer.attention_norm)
            return self._attend(attend, index, qkv, positions, layer.head_norm)
        q = x.new_empty(1, config.num_heads * config.head_dim)
        keys, places = attend.target(index)
        width = weight.matrix.shape[0]
        self.kernels.vector_qkv[(width // rows,)](
            x, weight.matrix, _or(weight.bias, x), layer.attention_norm, q, positions, places,
            self.rotations, keys, keys.stride(0), width, config.norm_eps,
            config.hidden_size, rows, step, weight.bias is not None,
            config.num_heads, config.num_kv_heads, config.head_dim, self.pdl,
            num_warps=warps, launch_pdl=self.pdl,
        )  # fmt: skip
        return attend.run_stored(index, q)

    def _norm(self, x: Tensor, added: Tensor | None, weight: Tensor | None) -> Tensor:
        """RMS norm of `x + added`, which x becomes; `added` may be the parts of a product."""
        assert weight is not None
        rows, width = x.shape
        parts = 0 if added is None else added.shape[0] if added.dim() == 3 else 1
        out = x.new_empty(rows, width)
        block = 1 << (width - 1).bit_length()
        self.kernels.rms_norm[(rows,)](
            x, x if added is None else added, weight, out, self.config.norm_eps,
            width, block, parts, self.pdl, num_warps=8 if block > 2048 else 4, launch_pdl=self.pdl,
        )  # fmt: skip
        return out

    def _gate(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up: `[T, 2 * inner] -> [T, inner]`."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self.kernels.silu_mul[(rows, self.cdiv(width, 2048))](
            gate_up, out, width, 2048, self.pdl, num_warps=4, launch_pdl=self.pdl
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
        rows, step, warps = vector_tile(inner, norm is not None)
        self.kernels.vector_product[(self.cdiv(width, rows),)](
            x, matrix, _or(bias, x), _or(residual, x), _or(norm, x), out, width, self.config.norm_eps,
            inner, rows, step, norm is not None, gated, bias is not None, residual is not None, self.pdl,
            num_warps=warps, launch_pdl=self.pdl,
        )  # fmt: skip
        return out


class FewTile(NamedTuple):
    """A program of `product`: rows of x, rows of the weight, columns at a time; parts K is cut into.

    fetch: columns of the weight asked for before the kernel before has ended.
    """

    rows: int
    width: int
    step: int
    stages: int
    splits: int
    warps: int
    fetch: int


def few_tile(rows: int, width: int, inner: int, gated: bool) -> FewTile:
    """As measured on an H100 over Llama-3-8B's products. A part of K is whole steps."""
    tall = 16 if rows <= 16 else 32 if rows <= 32 else 64
    if gated:
        return FewTile(tall, 64, 128, 2, 1, 4, 0) if tall == 64 else FewTile(tall, 64, 128, 4, 1, 4, 128)
    wide, enough = (128, 96) if tall == 64 else (64, 256)
    splits = 1
    while splits < 8 and -(-width // wide) * splits < enough and inner % (splits * 2 * 128) == 0:
        splits *= 2
    stages, warps = (3, 8) if tall == 64 else (4, 4)
    return FewTile(tall, wide, 128, stages, splits, warps, 128)


def few_product(x: Tensor, weight: Weight, *, gated: bool = False, tile: FewTile | None = None) -> Tensor:
    """A few rows `[T, K]` times `[N, K]`, gated `[2 * N, K]`: `[T, N]`, or its float32 parts `[S, T, N]`."""
    from dendrite_core.models.cuda import kernels

    matrix, bias, card = weight.matrix, weight.bias, card_of(x.device)
    rows, inner = x.shape
    width = matrix.shape[0] // (2 if gated else 1)
    tile = tile or few_tile(rows, width, inner, gated)
    stage = (tile.width * (2 if gated else 1) + tile.rows) * tile.step * matrix.itemsize
    stages, pdl = max(1, card.stages(tile.stages, stage, 0)), card.early
    if tile.splits > 1:
        out = torch.empty(tile.splits, rows, width, device=x.device)
    else:
        out = x.new_empty(rows, width)
    kernels.product[(-(-width // tile.width), tile.splits)](
        x, x.stride(0), matrix, _or(bias, x), out, rows, width,
        inner, tile.rows, tile.width, tile.step, stages, tile.splits, gated, bias is not None,
        tile.fetch if pdl else 0, pdl, num_warps=tile.warps, launch_pdl=pdl,
    )  # fmt: skip
    return out


def vector_tile(inner: int, normed: bool) -> tuple[int, int, int]:
    """Rows of the weight, columns at a time and warps of a program for one row, as measured in a step."""
    step = min(inner & -inner, 256 if normed else 512)
    return 2048 // step, step, 4


def _weight(kernel: Kernel) -> Weight:
    assert isinstance(kernel, Plain), "on a CUDA device products are plain"
    return kernel.weight


def _or(tensor: Tensor | None, other: Tensor) -> Any:
    """A pointer the kernel does not read still has to be one."""
    return other if tensor is None else tensor
