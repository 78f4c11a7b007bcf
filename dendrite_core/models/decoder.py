"""The Llama-shaped decoder: token ids and positions in, final-normed hidden states out.

It knows tensors only. Attention is a function handed to every call, which stores the keys and values it is
given and attends; batches, requests and caches are that function's business. There are two forward passes:
`_Forward` runs on any device in any dtype, `_LeanForward` is float32 on a CPU, where a step of a small
model is mostly the cost of calling operators, so it writes into buffers whose views are made once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dendrite_core.models.config import NativeConfig
from dendrite_core.models.cuda.forward import CudaForward, FusedAttend, expressible
from dendrite_core.models.parts import Layer, Parts, read_parts
from dendrite_core.models.rope import rotate
from dendrite_core.models.weights import Weights

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`attend(layer, q [T, heads, d], k [T, kv_heads, d], v [T, kv_heads, d]) -> [T, heads * d]`.

The three are views of a buffer that the next layer overwrites: keys and values are copied to be kept.
"""

_FIRST_ROWS = 64

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: F.silu(x, inplace=True),
    "relu": lambda x: F.relu(x, inplace=True),
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class Decoder:
    """`decoder(token_ids, positions, attend) -> hidden [T, hidden]`, `logits(hidden) -> [R, vocab]`.

    `dtype` is that of the activations, and so of what `attend` is given. float16 on a CPU means weights
    stored as float16 and everything else in float32. Without `measured`, linear kernels are the same at
    every start.
    """

    def __init__(
        self,
        config: NativeConfig,
        weights: Weights,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_length: int | None = None,
        measured: bool = True,
    ) -> None:
        half_weights = device.type == "cpu" and dtype is torch.float16
        self.config = config
        self.dtype = torch.float32 if half_weights else dtype
        self.device = device
        self.max_length = min(max_length or config.max_position, config.max_position)
        self.layer_windows = list(config.layer_windows)
        self.attention_scale = config.attention_scale
        self._parts = read_parts(
            config,
            weights,
            dtype=self.dtype,
            storage=dtype,
            device=device,
            max_length=self.max_length,
            measured=measured,
        )
        lean = device.type == "cpu" and self.dtype is torch.float32
        self._forward = _LeanForward(config, self._parts) if lean else _Forward(config, self._parts)
        fuses = device.type in ("cuda", "meta") and expressible(config, self.dtype)
        self._fused = CudaForward(config, self._parts) if fuses else None

    @property
    def is_fused(self) -> bool:
        """Whether steps take the CUDA pass, which a graph can capture."""
        return self._fused is not None

    @property
    def kernels(self) -> tuple[str, str]:
        """Names of the linear kernels for few rows and for many."""
        return self._parts.choice.names

    @torch.inference_mode()
    def __call__(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states `[T, hidden]` after the final norm; token_ids and positions are `[T]` int64."""
        if self._fused is not None and isinstance(attend, FusedAttend):
            return self._fused(token_ids, positions, attend)
        return self._forward(token_ids, positions, attend)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores `[R, vocab]` of hidden states `[R, hidden]`: float32, or as the fused pass has them."""
        if self._fused is not None:
            return self._fused.logits(hidden)
        return self._parts.head(hidden.shape[0])(hidden).float()


class _Forward:
    """The pass as one would write it down."""

    def __init__(self, config: NativeConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.activate = _ACTIVATIONS[config.hidden_act]
        self.turned = config.num_heads + config.num_kv_heads

    def __call__(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        parts = self.parts
        x = parts.embedding.index_select(0, token_ids)
        rotation = parts.rotations.index_select(0, positions).unsqueeze(1)
        for index, layer in enumerate(parts.layers(x.shape[0])):
            x = x + layer.out(self._attention(index, layer, x, rotation, attend))
            gate, up = layer.gate_up(self._norm(x, layer.mlp_norm)).chunk(2, -1)
            x = x + layer.down(self.activate(gate) * up)
        return self._norm(x, parts.final_norm)

    def _attention(self, index: int, layer: Layer, x: Tensor, rotation: Tensor, attend: Attend) -> Tensor:
        """Normed, projected, rotated and attended: `[T, hidden] -> [T, heads * d]`."""
        config, turned = self.config, self.turned
        qkv = layer.qkv(self._norm(x, layer.attention_norm)).view(x.shape[0], -1, config.head_dim)
        qk = qkv[:, :turned]
        if layer.head_norm is not None:
            qk = torch.rms_norm(qk, (config.head_dim,), None, config.norm_eps) * layer.head_norm
        qk = rotate(qk, rotation)
        return attend(index, qk[:, : config.num_heads], qk[:, config.num_heads :], qkv[:, turned:])

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return torch.rms_norm(x, (x.shape[-1],), weight, self.config.norm_eps)


class _Buffers:
    """Memory for up to `capacity` rows.

    `wide` is the residual stream with one more column, sqrt(hidden * eps): the norm of a wide row is then
    the root of sum(x^2) + hidden * eps, which an RMS norm divides by, but for the factor sqrt(hidden) that
    is folded into the weights.
    """

    def __init__(self, config: NativeConfig, capacity: int) -> None:
        hidden, heads = config.hidden_size, config.num_heads + 2 * config.num_kv_heads
        self.capacity = capacity
        self.wide = torch.full((capacity, hidden + 1), math.sqrt(hidden * config.norm_eps))
        self.length = torch.empty(capacity, 1)
        self.normed = torch.empty(capacity, hidden)
        self.qkv = torch.empty(capacity, heads * config.head_dim)
        self.gate_up = torch.empty(capacity, 2 * config.intermediate_size)
        self.gated = torch.empty(capacity, config.intermediate_size)


class _Rows:
    """The views of the first T rows of the buffers that every layer uses."""

    def __init__(self, config: NativeConfig, buffers: _Buffers, rows: int) -> None:
        heads, kv_heads, d = config.num_heads, config.num_kv_heads, config.head_dim
        self.wide, self.length, self.normed = (
            full[:rows] for full in (buffers.wide, buffers.length, buffers.normed)
        )
        self.x = self.wide[:, :-1]
        self.qkv, self.gate_up, self.gated = (
            full[:rows] for full in (buffers.qkv, buffers.gate_up, buffers.gated)
        )
        by_head = self.qkv.view(rows, -1, d)
        self.qk, self.v = by_head[:, : heads + kv_heads], by_head[:, heads + kv_heads :]
        self.q, self.k = self.qk[:, :heads], self.qk[:, heads:]
        self.pairs = torch.view_as_complex(self.qk.view(rows, heads + kv_heads, d // 2, 2))
        self.gate, self.up = self.gate_up.chunk(2, -1)


class _LeanForward:
    """The same pass in as few operators as it takes."""

    def __init__(self, config: NativeConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.activate = _ACTIVATIONS[config.hidden_act]
        self.final_norm = parts.final_norm * math.sqrt(config.hidden_size)
        self.head_eps = torch.tensor(math.sqrt(config.head_dim * config.norm_eps))
        self.buffers = _Buffers(config, _FIRST_ROWS)
        self.rows: dict[int, _Rows] = {}

    def __call__(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        parts, activate = self.parts, self.activate
        rows = self._rows_for(token_ids.shape[0])
        x, wide, length, normed, gate_up = rows.x, rows.wide, rows.length, rows.normed, rows.gate_up
        norm, div, mul = torch.linalg.vector_norm, torch.div, torch.mul
        x.copy_(parts.embedding.index_select(0, token_ids))
        rotation = parts.rotations.index_select(0, positions).unsqueeze_(1)
        for index, layer in enumerate(parts.layers(x.shape[0])):
            norm(wide, 2, -1, True, out=length)
            rows.qkv.copy_(layer.qkv(div(x, length, out=normed)))
            if layer.head_norm is not None:
                self._norm_heads(rows.qk, layer.head_norm)
            rows.pairs.mul_(rotation)
            x.add_(layer.out(attend(index, rows.q, rows.k, rows.v)))
            norm(wide, 2, -1, True, out=length)
            gate_up.copy_(layer.gate_up(div(x, length, out=normed)))
            x.add_(layer.down(mul(activate(rows.gate), rows.up, out=rows.gated)))
        return div(x, norm(wide, 2, -1, True)).mul_(self.final_norm)

    def _norm_heads(self, qk: Tensor, weight: Tensor) -> None:
        """RMS-norm every query and key head `[T, heads + kv_heads, d]` in place."""
        length: Tensor = torch.linalg.vector_norm(qk, 2, -1, True)
        qk.div_(length.hypot_(self.head_eps)).mul_(weight)

    def _rows_for(self, count: int) -> _Rows:
        if count > self.buffers.capacity:
            self.buffers = _Buffers(self.config, count)
            self.rows.clear()
        if count not in self.rows:
            self.rows[count] = _Rows(self.config, self.buffers, count)
        return self.rows[count]
