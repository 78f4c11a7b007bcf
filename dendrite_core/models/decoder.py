"""The Llama-shaped decoder: token ids and positions in, final-normed hidden states out.

It knows tensors only. Attention is a function handed to every call, which stores the keys and values it is
given and attends; batches, requests and caches are that function's business. Where activations are float32
on a CPU the norms' weights are folded into the matrices after them, because a step of a small model is
mostly the cost of calling operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dendrite_core.models.config import ModelConfig
from dendrite_core.models.linear import Kernel, plain
from dendrite_core.models.rope import interleaved, rotate, rotations
from dendrite_core.models.weights import EMBEDDING, FINAL_NORM, LM_HEAD, Weights, layer_prefix

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`attend(layer, q [T, heads, d], k [T, kv_heads, d], v [T, kv_heads, d]) -> [T, heads * d]`."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: F.silu(x, inplace=True),
    "relu": lambda x: F.relu(x, inplace=True),
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as four products. A norm weight that is None has been folded into the product after it."""

    qkv: Kernel
    out: Kernel
    gate_up: Kernel
    down: Kernel
    attention_norm: Tensor | None
    mlp_norm: Tensor | None
    head_norm: Tensor | None


class Decoder:
    """`decoder(token_ids, positions, attend) -> hidden [T, hidden]`, `logits(hidden) -> [R, vocab]`."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_length: int | None = None,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.device = device
        self.max_length = min(max_length or config.max_position, config.max_position)
        self.layer_windows = list(config.layer_windows)
        self.attention_scale = config.attention_scale
        self._folds = device.type == "cpu" and dtype is torch.float32
        self._embedding = weights.read(EMBEDDING).to(device, dtype, copy=True)
        self._layers = [self._read_layer(weights, layer) for layer in range(config.num_layers)]
        self._final_norm = weights.read(FINAL_NORM).to(device, dtype, copy=True)
        tied = config.tie_embeddings
        head = self._embedding if tied else weights.read(LM_HEAD).to(device, dtype, copy=True)
        self._lm_head = plain(head, None)
        self._rotations = rotations(config.rope, config.head_dim, self.max_length).to(device)
        self._activate = _ACTIVATIONS[config.hidden_act]

    @torch.inference_mode()
    def __call__(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states `[T, hidden]` after the final norm; token_ids and positions are `[T]` int64."""
        x = self._embedding.index_select(0, token_ids)
        rotation = self._rotations.index_select(0, positions).unsqueeze_(1)
        for index, layer in enumerate(self._layers):
            x.add_(layer.out(self._attention(index, layer, x, rotation, attend)))
            x.add_(layer.down(self._gated(layer, x)))
        return torch.rms_norm(x, (self.config.hidden_size,), self._final_norm, self.config.norm_eps)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores `[R, vocab]` in float32 of hidden states `[R, hidden]`."""
        return self._lm_head(hidden).float()

    def _attention(self, index: int, layer: Layer, x: Tensor, rotation: Tensor, attend: Attend) -> Tensor:
        """Normed, projected, rotated and attended: `[T, hidden] -> [T, heads * d]`."""
        config = self.config
        turned = config.num_heads + config.num_kv_heads
        heads = layer.qkv(self._normed(x, layer.attention_norm)).view(x.shape[0], -1, config.head_dim)
        qk = heads[:, :turned]
        if layer.head_norm is not None:
            qk = _unit(qk, config.norm_eps).mul_(layer.head_norm)
        qk = rotate(qk, rotation)
        return attend(index, qk[:, : config.num_heads], qk[:, config.num_heads :], heads[:, turned:])

    def _gated(self, layer: Layer, x: Tensor) -> Tensor:
        """`act(gate) * up` of the normed rows: `[T, hidden] -> [T, intermediate]`."""
        gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, -1)
        return self._activate(gate) * up

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return _unit(x, self.config.norm_eps)
        return torch.rms_norm(x, weight.shape, weight, self.config.norm_eps)

    def _read_layer(self, weights: Weights, index: int) -> Layer:
        config, prefix = self.config, layer_prefix(index)

        def read(name: str) -> Tensor:
            return weights.read(prefix + name).to(self.device, torch.float32 if self._folds else self.dtype)

        attention_norm, mlp_norm = read("input_layernorm.weight"), read("post_attention_layernorm.weight")
        order = interleaved(config.head_dim).to(self.device)

        def projection(names: tuple[str, ...], biased: bool, norm: Tensor | None, by_head: int = 0) -> Kernel:
            """The named weights stacked, the first `by_head` with the channels of heads paired for rope."""
            parts = [read(f"{name}.weight") for name in names]
            biases = [read(f"{name}.bias") for name in names] if biased else []
            for group in (parts, biases):
                group[:by_head] = [_paired(part, order) for part in group[:by_head]]
            weight = torch.cat(parts)
            if norm is not None and self._folds:
                weight *= norm * math.sqrt(config.hidden_size)
            return plain(weight, torch.cat(biases) if biases else None)

        return Layer(
            qkv=projection(_QKV, config.qkv_bias, attention_norm, by_head=2),
            out=projection(("self_attn.o_proj",), config.out_bias, None),
            gate_up=projection(("mlp.gate_proj", "mlp.up_proj"), config.mlp_bias, mlp_norm),
            down=projection(("mlp.down_proj",), config.mlp_bias, None),
            attention_norm=None if self._folds else attention_norm,
            mlp_norm=None if self._folds else mlp_norm,
            head_norm=self._head_norm(read, order) if config.qk_norm else None,
        )

    def _head_norm(self, read: Callable[[str], Tensor], order: Tensor) -> Tensor:
        """Norm weights of query and key heads side by side, `[heads + kv_heads, d]`, times sqrt(d)."""
        config = self.config
        q, k = (read(f"self_attn.{which}_norm.weight")[order] for which in "qk")
        rows = [q.expand(config.num_heads, -1), k.expand(config.num_kv_heads, -1)]
        return torch.cat(rows) * math.sqrt(config.head_dim)


def _paired(weight: Tensor, order: Tensor) -> Tensor:
    """Rows `[heads * d, ...]` with the channels of every head in the order rope wants."""
    return weight.view(-1, len(order), *weight.shape[1:])[:, order].flatten(0, 1)


def _unit(x: Tensor, eps: float) -> Tensor:
    """`x / sqrt(sum(x^2) + n eps)` over the last axis of size n: an RMS norm but for the factor sqrt(n)."""
    norm: Tensor = torch.linalg.vector_norm(x, 2, -1, True)
    return x / norm.hypot_(norm.new_full((), math.sqrt(x.shape[-1] * eps)))
