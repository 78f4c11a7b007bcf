"""The network and its training: a Llama in plain torch, Muon for the matrices, a schedule cut to a time
budget.

Parameter names are transformers' own, so that the trained state loads into LlamaForCausalLM as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.train_embedded.tokenizer import CONTEXT, END, END_OF_TEXT

ROPE_BASE = 10000.0
NORM_EPS = 1e-5


@dataclass(frozen=True)
class Size:
    """The shape of the network. Few layers: each costs a fixed time per token on a CPU."""

    vocabulary: int = 1024
    width: int = 320
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    inner: int = 1024


@dataclass(frozen=True)
class Plan:
    seconds: float
    tokens_per_step: int
    lr: float = 4e-3
    weight_decay: float = 0.05
    warmup_steps: int = 150
    steady: float = 0.25
    seed: int = 24


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + NORM_EPS) * self.weight).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.q_proj = nn.Linear(size.width, size.heads * size.head_dim, bias=False)
        self.k_proj = nn.Linear(size.width, size.kv_heads * size.head_dim, bias=False)
        self.v_proj = nn.Linear(size.width, size.kv_heads * size.head_dim, bias=False)
        self.o_proj = nn.Linear(size.heads * size.head_dim, size.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            proj(x).view(b, t, -1, self.size.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.size.heads // self.size.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))  # type: ignore[no-any-return]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves paired as transformers pairs them. x: [b, heads, t, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class MLP(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.width, size.inner, bias=False)
        self.up_proj = nn.Linear(size.width, size.inner, bias=False)
        self.down_proj = nn.Linear(size.inner, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attn = Attention(size)
        self.mlp = MLP(size)
        self.input_layernorm = RMSNorm(size.width)
        self.post_attention_layernorm = RMSNorm(size.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Llama(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embed_tokens = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = RMSNorm(size.width)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * size.layers) if out else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        cos, sin = rope(ids.shape[1], self.size.head_dim, ids.device)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self(ids)
        return hidden @ self.embed_tokens.weight.T


def rope(length: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.outer(torch.arange(length, device=device).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def weighted_loss(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = (hidden @ head.to(hidden.dtype).T).flatten(0, 1).float()
    losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum().clamp(min=1.0)


# ---- Muon


def orthogonalized(updates: Tensor) -> Tensor:
    """Newton-Schulz towards the nearest orthogonal matrix, for a stack [n, rows, columns] at once."""
    x: Tensor = updates.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.transpose(1, 2) if tall else x
    return x.to(updates.dtype)


class Muon:
    """Momentum, orthogonalized; matrices of one shape go together. Scaled to Adam's usual update size."""

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        shapes = sorted({tuple(p.shape) for p in parameters})
        self.groups = [[p for p in parameters if tuple(p.shape) == shape] for shape in shapes]
        self.momenta = [torch.zeros(len(g), *g[0].shape, device=g[0].device) for g in self.groups]

    @torch.no_grad()
    def step(self, lr: float, momentum: float = 0.95) -> None:
        for group, buffer in zip(self.groups, self.momenta, strict=True):
            grads = torch.stack([p.grad for p in group if p.grad is not None])
            buffer.lerp_(grads, 1 - momentum)
            update = orthogonalized(grads.lerp(buffer, momentum))
            update *= 0.2 * math.sqrt(max(update.shape[1:]))
            tensors: list[Tensor] = list(group)
            torch._foreach_mul_(tensors, 1 - lr * self.weight_decay)
            torch._foreach_add_(tensors, list(update.unbind()), alpha=-lr)


# ---- the loop


def learning_rate(plan: Plan, step: int, done: float) -> float:
    """Warm-up by steps, then steady, then down to nothing at the end of the time."""
    fall = min(1.0, (1.0 - done) / (1.0 - plan.steady))
    return plan.lr * min(1.0, (step + 1) / plan.warmup_steps) * max(fall, 0.0)


def to_device(batch: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    both = torch.from_numpy(batch.astype(np.int32)).to(device, non_blocking=True)
    return both[0, :, :-1].long(), both[0, :, 1:].long(), both[1, :, 1:].float()


def train(model: Llama, batches: Iterator[np.ndarray], plan: Plan, device: torch.device) -> dict[str, Any]:
    """Trains until the time is up; returns what it took."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    muon = Muon(matrices, plan.weight_decay)
    adam = torch.optim.AdamW(others, lr=plan.lr, betas=(0.9, 0.95), weight_decay=0.0)
    loss_of = compiled(model, device)
    clock = Progress(plan)
    step, loss = 0, torch.zeros(())
    while (done := clock.done()) < 1.0:
        ids, targets, weights = to_device(next(batches), device)
        lr = learning_rate(plan, step, done)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model(ids), model.embed_tokens.weight, targets, weights)
        loss.backward()
        adam.param_groups[0]["lr"] = lr / 2
        adam.step()
        muon.step(lr)
        model.zero_grad(set_to_none=True)
        step += 1
        clock.report(step, loss, lr, ids.numel())
    return clock.summary(step, loss)


def compiled(model: Llama, device: torch.device) -> Any:
    """Compiles one layer, whose code all layers share, and the loss; a CPU trains eagerly."""
    if device.type != "cuda":
        return weighted_loss
    import torch._dynamo

    # A kernel that does not compile should cost speed, not the run.
    torch._dynamo.config.suppress_errors = True
    for layer in model.layers:
        layer.compile(dynamic=False)
    return torch.compile(weighted_loss, dynamic=False)


class Progress:
    """The clock of a run. The time to compile, up to the first steps, is not counted against the budget."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.began = plan, time.monotonic()
        self.started, self.tokens, self.shown = 0.0, 0, time.monotonic()
        self.warm_steps = 8

    def done(self) -> float:
        return (time.monotonic() - self.started) / self.plan.seconds if self.started else 0.0

    def report(self, step: int, loss: Tensor, lr: float, tokens: int) -> None:
        self.tokens += tokens
        if step == self.warm_steps:
            loss.item()
            self.started = time.monotonic()
            print(f"compiled and warm after {self.started - self.began:.1f} s", flush=True)
        if step % 20 == 0:
            # Keeps the host from running far ahead of the device, so that the clock means training done.
            value = loss.item()
            if time.monotonic() - self.shown > 10 or step <= 20:
                self.shown = time.monotonic()
                rate = self.tokens / (time.monotonic() - self.began)
                print(
                    f"step {step} {self.done():.0%} loss {value:.4f} lr {lr:.2e} {rate:,.0f} tokens/s",
                    flush=True,
                )

    def summary(self, step: int, loss: Tensor) -> dict[str, Any]:
        seconds = time.monotonic() - self.began
        return {
            "steps": step,
            "tokens": self.tokens,
            "seconds": round(seconds, 1),
            "loss": round(loss.item(), 4),
        }


# ---- the checkpoint


def llama_config(size: Size, control: dict[str, int]) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=size.inner,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim, max_position_embeddings=CONTEXT, rms_norm_eps=NORM_EPS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE}, bos_token_id=None,
        eos_token_id=control[END], pad_token_id=control[END_OF_TEXT],
    )  # fmt: skip


def save_model(model: Llama, control: dict[str, int], folder: Path) -> None:
    """Writes bf16 shards that transformers loads strictly; `control` maps control tokens to ids."""
    from transformers import GenerationConfig, LlamaForCausalLM

    whole = LlamaForCausalLM(llama_config(model.size, control))
    state = {f"model.{name}": p.detach().cpu() for name, p in model.named_parameters()}
    missing = whole.load_state_dict(state, strict=False).missing_keys
    assert missing in ([], ["lm_head.weight"]), missing
    whole.tie_weights()
    whole = whole.to(torch.bfloat16)
    whole.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[control[END], control[END_OF_TEXT]], pad_token_id=control[END_OF_TEXT]
    )
    whole.save_pretrained(folder, max_shard_size="10MB")
    for shard in folder.glob("*.safetensors"):
        shard.chmod(0o644)
        assert shard.stat().st_size < 16_000_000, shard
