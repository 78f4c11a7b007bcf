"""Whether two trees of the same seeds differ by more than rounding.

The same token can have a probability that differs in the seventh digit, because a row's sums are taken in
another order when other rows are computed beside it. A draw falls on the other side of a boundary where its
number lies as close to it as that. Here every such draw is looked at: the distribution is computed once
more, by a plain forward pass over the whole text, and how far the drawn number lies from the boundary is
measured. Beyond the first difference of a branch nothing can be compared, and nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dendrite_core.models.loading import load_model
from dendrite_core.sampling.seeding import uniform
from dendrite_core.search import Branch, Tree


@dataclass(frozen=True, slots=True)
class Turned:
    """A draw that came out as `found` in one tree and as `wanted` in the other, after the same text."""

    text: tuple[int, ...]
    seed: int
    found: int
    wanted: int


def turned_draws(found: Tree, wanted: Tree, prompt: tuple[int, ...]) -> list[Turned]:
    """The first different draw of every branch whose past is the same in both trees."""
    return list(_turned(found, wanted, prompt))


def _turned(found: Tree, wanted: Tree, prompt: tuple[int, ...]) -> Iterator[Turned]:
    for one, other in zip(found.branches[1:], wanted.branches[1:], strict=True):
        if one.token_ids == other.token_ids or _past(one) != _past(other):
            continue
        pairs = zip(one.token_ids, other.token_ids, strict=True)
        at = next(at for at, (a, b) in enumerate(pairs) if a != b)
        text = (*prompt, *_past(one), *one.token_ids[:at])
        yield Turned(text, _seed_of(one), one.token_ids[at], other.token_ids[at])


def _past(branch: Branch) -> tuple[int, ...]:
    return tuple(token for above in branch.path[:-1] for token in above.token_ids)


def _seed_of(branch: Branch) -> int:
    """The seed its parent was asked with, once for every child."""
    assert branch.parent is not None
    return branch.tree.seed_for("grow", branch.parent.id, branch.parent.children.index(branch) + 1)


class Referee:
    """A model in float32 on the CPU, without any cache, to ask for the truth. `banned` are never drawn."""

    def __init__(self, model: str, banned: tuple[int, ...]) -> None:
        self._decoder = load_model(model).decoder
        self._banned = list(banned)

    def distance(self, draw: Turned) -> float:
        """How far the draw's number lies from where both tokens would have to meet for it, 0 to 1."""
        number = uniform(draw.seed, 0, len(draw.text))
        ends = self._probabilities(draw.text).cumsum(0)
        starts = F.pad(ends, (1, 0))[:-1]
        return max(
            max(float(starts[token]) - number, number - float(ends[token]), 0.0)
            for token in (draw.found, draw.wanted)
        )

    def _probabilities(self, text: tuple[int, ...]) -> Tensor:
        hidden = self._decoder(torch.tensor(text), torch.arange(len(text)), self._attend)
        logits = self._decoder.logits(hidden[-1:])[0].double()
        logits[self._banned] = -torch.inf
        return logits.softmax(0)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self._decoder.layer_windows[layer] is None, "only full attention is read here"
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        scale = self._decoder.attention_scale
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        return out[0].transpose(0, 1).flatten(1)
