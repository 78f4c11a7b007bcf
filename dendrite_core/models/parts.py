"""A model's weights as a decoder uses them: fused, in rope's order, norms folded, made into kernels.

Queries, keys and values are one product, and so are gate and up. Where activations are float32 on a CPU,
the weights of the norms before products are folded into the products, and one operator is saved per norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dendrite_core.models.config import NativeConfig
from dendrite_core.models.linear import Choice, Kernel, MakeKernel, Weight, choose, only, sample_size
from dendrite_core.models.rope import interleaved, rotations
from dendrite_core.models.weights import EMBEDDING, FINAL_NORM, LM_HEAD, Weights, layer_prefix

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_TURNED = _QKV[:2]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as four products. A norm weight that is None has been folded into the product after it.

    `head_norm` is `[heads + kv_heads, d]`, in rope's order.
    """

    qkv: Kernel
    out: Kernel
    gate_up: Kernel
    down: Kernel
    attention_norm: Tensor | None
    mlp_norm: Tensor | None
    head_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a forward pass reads. `few` and `many` are the same layers, for few rows and for many."""

    embedding: Tensor
    few: tuple[Layer, ...]
    many: tuple[Layer, ...]
    final_norm: Tensor
    head_few: Kernel
    head_many: Kernel
    rotations: Tensor
    choice: Choice

    def layers(self, rows: int) -> tuple[Layer, ...]:
        return self.few if rows <= self.choice.few_rows else self.many

    def head(self, rows: int) -> Kernel:
        return self.head_few if rows <= self.choice.few_rows else self.head_many


@dataclass(frozen=True, slots=True)
class _FusedLayer:
    qkv: Weight
    out: Weight
    gate_up: Weight
    down: Weight
    attention_norm: Tensor | None
    mlp_norm: Tensor | None
    head_norm: Tensor | None

    @property
    def products(self) -> tuple[Weight, ...]:
        return self.qkv, self.out, self.gate_up, self.down

    def made(self, make: MakeKernel) -> Layer:
        qkv, out, gate_up, down = (make(weight) for weight in self.products)
        return Layer(qkv, out, gate_up, down, self.attention_norm, self.mlp_norm, self.head_norm)


class _Reader:
    """Reads fused layers; activations are in `dtype`, and `folds` says that norms go into products."""

    def __init__(
        self, config: NativeConfig, weights: Weights, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config, self.weights, self.dtype, self.device = config, weights, dtype, device
        self.folds = device.type == "cpu" and dtype is torch.float32
        self.order = interleaved(config.head_dim).to(device)

    def tensor(self, name: str) -> Tensor:
        """A copy, because a checkpoint's own tensor is a view of its file."""
        return self.weights.read(name).to(self.device, self.dtype, copy=True)

    def layer(self, index: int) -> _FusedLayer:
        config, prefix = self.config, layer_prefix(index)
        before_attention = self.tensor(f"{prefix}input_layernorm.weight")
        before_mlp = self.tensor(f"{prefix}post_attention_layernorm.weight")
        return _FusedLayer(
            qkv=self._product(prefix, _QKV, config.qkv_bias, before_attention),
            out=self._product(prefix, ("self_attn.o_proj",), config.out_bias),
            gate_up=self._product(prefix, ("mlp.gate_proj", "mlp.up_proj"), config.mlp_bias, before_mlp),
            down=self._product(prefix, ("mlp.down_proj",), config.mlp_bias),
            attention_norm=None if self.folds else before_attention,
            mlp_norm=None if self.folds else before_mlp,
            head_norm=self._head_norm(prefix) if config.qk_norm else None,
        )

    def _product(
        self, prefix: str, names: tuple[str, ...], biased: bool, norm: Tensor | None = None
    ) -> Weight:
        """The named linears on top of each other, a norm before them folded in."""
        matrix = self._stacked([self._part(prefix, name, "weight") for name in names])
        if norm is not None and self.folds:
            matrix *= norm * math.sqrt(self.config.hidden_size)
        bias = self._stacked([self._part(prefix, name, "bias") for name in names]) if biased else None
        return Weight(matrix, bias)

    def _stacked(self, parts: Sequence[Tensor]) -> Tensor:
        """Copied straight to where they belong: nothing of a model's size is there twice."""
        rows = [len(part) for part in parts]
        whole = torch.empty(sum(rows), *parts[0].shape[1:], dtype=self.dtype, device=self.device)
        for place, part in zip(torch.split_with_sizes(whole, rows), parts, strict=True):
            place.copy_(part)
        return whole

    def _part(self, prefix: str, name: str, kind: str) -> Tensor:
        """One linear's weight or bias as it is stored; rows of query and key heads come in rope's order."""
        found = self.weights.read(f"{prefix}{name}.{kind}")
        if name not in _TURNED:
            return found
        by_head = found.to(self.device).view(-1, self.config.head_dim, *found.shape[1:])
        return by_head.index_select(1, self.order).flatten(0, 1)

    def _head_norm(self, prefix: str) -> Tensor:
        """Norm weights of query and key heads `[heads + kv_heads, d]`; times sqrt(d) where norms fold."""
        config = self.config
        q, k = (self.tensor(f"{prefix}self_attn.{which}_norm.weight")[self.order] for which in "qk")
        rows = torch.cat([q.expand(config.num_heads, -1), k.expand(config.num_kv_heads, -1)])
        return rows * math.sqrt(config.head_dim) if self.folds else rows


def read_parts(
    config: NativeConfig,
    weights: Weights,
    *,
    dtype: torch.dtype,
    storage: torch.dtype,
    device: torch.device,
    max_length: int,
    measured: bool,
) -> Parts:
    """Read and arrange all weights. `dtype` is that of activations, `storage` that of the products.

    `measured` takes the fastest kernels here and now; otherwise they are the same at every start.
    """
    reader = _Reader(config, weights, dtype, device)
    embedding = reader.tensor(EMBEDDING)
    head = Weight(embedding if config.tie_embeddings else reader.tensor(LM_HEAD))
    choice = _choice(reader, head, storage) if measured else only(storage, device)
    few, many = [], []
    for index in range(config.num_layers):
        fused = reader.layer(index)
        many.append(fused.made(choice.many))
        few.append(many[-1] if choice.few is choice.many else fused.made(choice.few))
    head_many = choice.many(head)
    return Parts(
        embedding=embedding,
        few=tuple(few),
        many=tuple(many),
        final_norm=reader.tensor(FINAL_NORM),
        head_few=head_many if choice.few is choice.many else choice.few(head),
        head_many=head_many,
        rotations=rotations(config.rope, config.head_dim, max_length).to(device),
        choice=choice,
    )


def _choice(reader: _Reader, head: Weight, storage: torch.dtype) -> Choice:
    """Kernels by measurement on the first layers."""
    config = reader.config
    total = config.parameters * reader.dtype.itemsize
    layers = sample_size(total // config.num_layers, config.num_layers)
    measured = reader.device.type == "cpu" and storage is not torch.float16
    sample = [w for index in range(layers) for w in reader.layer(index).products] if measured else []
    return choose([*sample, head], storage, reader.device, total)
