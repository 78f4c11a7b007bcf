"""A family without a native decoder, served through transformers' own modelling code.

The model's attention is replaced by ours through transformers' attention interface. What `attend` cannot
express (a score cap, sinks, masks, recurrent layers, ...) is refused by name when the model is loaded; and
because a family may do something nobody thought of, the loaded model has to give the same logits with our
attention as with its own before it is served.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.config import ModelConfig, checkpoint_dtype, end_tokens, refuse_quantized
from dendrite_core.models.decoder import Attend

_INTERFACE = "dendrite"
_PROBE = (3, 1, 4, 1, 5, 9, 2, 6)
_REFUSED = ("softcap", "s_aux", "position_bias", "head_mask", "encoder_hidden_states")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_NAMED_AT_MOST = 20
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class _Site:
    """One attention layer, as it called for attention when probed."""

    index: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None


@dataclass(slots=True)
class _Seat:
    """Where a model's attention modules find the attention of the forward pass under way."""

    handle: Callable[..., Tensor] | None = None


class TransformersDecoder:
    """The contract of `Decoder` over a model of transformers."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        # On a CPU float16 is a format of packed weights, which transformers' own linears do not use.
        self.dtype = torch.float32 if device.type == "cpu" and dtype is torch.float16 else dtype
        self.device = device
        self._model = _load(folder, self.dtype).to(device)
        self._seat = _Seat()
        for module in self._model.modules():
            module.dendrite_seat = self._seat
        try:
            self._body: nn.Module = getattr(self._model, self._model.base_model_prefix)
            self._head = _head_alone(self._model)
            self._sites = self._probed()
            sites = list(self._sites.values())
            self.attention_scale = sites[0].scale
            self.layer_windows = [site.window for site in sites]
            self.config = _served_config(self._model, sites)
            self._check_against_own_attention()
        except ModelLoadError:
            raise
        except Exception as error:  # Modelling code of any family runs here, with failures of any kind.
            raise ModelLoadError(f"{type(self._model).__name__} cannot be served: {error!r}") from error

    @torch.inference_mode()
    def __call__(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states `[T, hidden]` after the final norm; token_ids and positions are `[T]` int64."""

        def handle(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
            site = self._sites[module]
            q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
            # `attend` has one scale for all layers, so a layer's own is put into its queries.
            q = q if site.scale == self.attention_scale else q * (site.scale / self.attention_scale)
            mixed = attend(site.index, q, k, v)
            return mixed.view(1, q.shape[0], site.heads, site.head_dim)

        return self._run(token_ids, positions, handle)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores `[R, vocab]` in float32 of hidden states `[R, hidden]`."""
        found: Tensor = self._head(inputs_embeds=hidden[None], use_cache=False).logits
        return found[0].float()

    def _run(self, token_ids: Tensor, positions: Tensor, handle: Callable[..., Tensor]) -> Tensor:
        self._seat.handle = handle
        try:
            output = self._body(input_ids=token_ids[None], position_ids=positions[None], use_cache=False)
        finally:
            self._seat.handle = None
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @torch.inference_mode()
    def _probed(self) -> dict[nn.Module, _Site]:
        """Run two tokens and note who asks for attention, in which order and with what settings."""
        sites: dict[nn.Module, _Site] = {}

        def note(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **asked: Any) -> Tensor:
            if module in sites:
                raise ModelLoadError(f"{type(module).__name__} attends twice in one pass")
            sites[module] = _site(len(sites), module, query, key, value, asked)
            return query.transpose(1, 2)

        self._run(self._tensor([0, 1]), self._tensor([0, 1]), note)
        layers = self._model.config.get_text_config().num_hidden_layers
        if len(sites) != layers:
            raise ModelLoadError(
                f"{type(self._model).__name__}: {len(sites)} of {layers} layers attend through transformers'"
                " attention interface; recurrent or older layers cannot be served"
            )
        shapes = {(site.heads, site.kv_heads, site.head_dim) for site in sites.values()}
        if len(shapes) > 1:
            raise ModelLoadError(f"layers differ in heads, kv heads or head size: {sorted(shapes)}")
        return sites

    @torch.inference_mode()
    def _check_against_own_attention(self) -> None:
        """A few tokens, in two pieces through our attention, must give what the model gives by itself."""
        tokens = self._tensor([token % self.config.vocab_size for token in _PROBE])
        positions, cut = torch.arange(len(tokens), device=self.device), len(tokens) // 2
        attend = _Remembering(self.attention_scale)
        hidden = [self(tokens[part], positions[part], attend) for part in (slice(cut), slice(cut, None))]
        found = self.logits(torch.cat(hidden))
        self._model.set_attn_implementation("eager")
        expected = self._model(input_ids=tokens[None], use_cache=False).logits[0].float()
        self._model.set_attn_implementation(_INTERFACE)
        tolerance = 1e-3 if self.dtype in (torch.float32, torch.float64) else 5e-2
        error = float((found - expected).norm() / expected.norm())
        if not error <= tolerance:
            raise ModelLoadError(
                f"{type(self._model).__name__} computes something else with paged attention than by itself"
                f" (logits differ by {error:.2g} of their norm), so it cannot be served"
            )

    def _tensor(self, ids: list[int]) -> Tensor:
        return torch.tensor(ids, device=self.device)


@dataclass(slots=True)
class _Remembering:
    """A plain causal `attend` over everything it has been given."""

    scale: float
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer in self.kept:
            k, v = (torch.cat(pair) for pair in zip(self.kept[layer], (k, v), strict=True))
        self.kept[layer] = k, v
        group, before = q.shape[1] // k.shape[1], len(k) - len(q)
        keys, values = (x.repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
        scores = (q.transpose(0, 1) @ keys.mT).float() * self.scale
        hidden = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).triu(before + 1)
        weights = scores.masked_fill_(hidden, -torch.inf).softmax(-1).to(v.dtype)
        return (weights @ values).transpose(0, 1).reshape(len(q), -1)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **asked: Any
) -> tuple[Tensor, None]:
    """Called by transformers: `query [1, heads, T, d]` -> `[1, T, heads, d]`, and no weights."""
    handle = module.dendrite_seat.handle
    assert handle is not None, "attention outside of a decoder's forward pass"
    return handle(module, query, key, value, attention_mask=attention_mask, **asked), None


def _site(
    index: int, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: Mapping[str, Any]
) -> _Site:
    refused = [name for name in _REFUSED if asked.get(name) is not None]
    if asked.get("attention_mask") is not None:
        refused.append("a mask of its own")
    if not asked.get("is_causal", getattr(module, "is_causal", True)):
        refused.append("bidirectional attention")
    if key.shape != value.shape or query.shape[-1] != key.shape[-1]:
        refused.append("keys and values of different sizes")
    if refused:
        raise ModelLoadError(f"{type(module).__name__} needs {', '.join(refused)}, which cannot be served")
    head_dim = query.shape[-1]
    scale, window = asked.get("scaling"), asked.get("sliding_window")
    return _Site(
        index=index,
        heads=query.shape[1],
        kv_heads=key.shape[1],
        head_dim=head_dim,
        scale=head_dim**-0.5 if scale is None else float(scale),
        window=None if window is None else int(window),
    )


def _load(folder: Path, dtype: torch.dtype) -> Any:
    """The model with our attention in it; loaded as strictly as a native one."""
    ALL_ATTENTION_FUNCTIONS.register(_INTERFACE, _attention)
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder)
        refuse_quantized(config.to_dict())
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=_INTERFACE,
            output_loading_info=True,
            use_safetensors=True,
        )
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        raise ModelLoadError(f"transformers cannot load {folder}: {error}") from error
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
    problems = [f"{kind} {key}" for kind in ("missing", "unexpected") for key in found[f"{kind}_keys"]]
    problems += [f"mis-shaped {key[0]}" for key in found["mismatched_keys"]]
    if problems:
        named = ", ".join(problems[:_NAMED_AT_MOST])
        raise ModelLoadError(f"{folder} does not fit its config.json: {len(problems)} problems: {named}")
    return model.eval()


class _HiddenOnly(BaseModelOutputWithPast):  # type: ignore[misc]
    """The output of a body that has hidden states and none of the extras a head may pass on."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _GivenHidden(nn.Module):
    """Stands where a model's body was and hands its input on, so that only the head is computed."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _HiddenOnly:
        return _HiddenOnly(last_hidden_state=inputs_embeds)


def _head_alone(model: Any) -> Any:
    """The model without its body: logits may be scaled or capped there in ways of its own."""
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _GivenHidden()}
    return head


def _served_config(model: Any, sites: list[_Site]) -> ModelConfig:
    hf = model.config.get_text_config()
    kinds = getattr(hf, "layer_types", None) or []
    if strange := sorted(set(kinds) - set(_LAYER_TYPES)):
        raise ModelLoadError(f"layer_types {', '.join(strange)} cannot be served")
    for kind, site in zip(kinds, sites, strict=False):
        if kind == "sliding_attention" and site.window is None:
            raise ModelLoadError(f"layer {site.index} slides but does not say how far")
    generation = model.generation_config or GenerationConfig()
    return ModelConfig(
        family=str(model.config.model_type),
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        num_layers=len(sites),
        num_heads=sites[0].heads,
        num_kv_heads=sites[0].kv_heads,
        head_dim=sites[0].head_dim,
        max_position=_max_position(hf),
        layer_windows=tuple(site.window for site in sites),
        attention_scale=sites[0].scale,
        eos_token_ids=end_tokens(hf.to_dict(), generation.to_dict()),
        dtype=checkpoint_dtype(hf.to_dict()),
        experts=max(int(getattr(hf, name, 0) or 0) for name in _EXPERT_COUNTS),
    )


def _max_position(hf: Any) -> int:
    """The context, kept to the original length where rope would change for all tokens once it is passed.

    transformers picks longrope's and dynamic's frequencies by the largest position in a call. In a batch of
    sequences that would be another sequence's, and keys already stored would keep the earlier ones.
    """
    longest = int(hf.max_position_embeddings)
    rope = getattr(hf, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return min(longest, int(rope["original_max_position_embeddings"]))
    return longest
