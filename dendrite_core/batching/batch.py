"""`Batch`: one engine step as plain ints, the only thing bookkeeping hands to arithmetic.

Rows are in tree order, so rows that share a past are contiguous and `spans` is the compressed trie of
their page tables. Nothing here knows a request, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dendrite_core.cache.page_table import Span
from dendrite_core.params import SamplingParams


class Draw(NamedTuple):
    """One token to be drawn from one row of logits.

    `logits_row` indexes the rows of `Batch.logits_at`; several draws may share one (n fresh branches of
    one prompt). `seed`, `stream` and `position` key the random number: the request's seed, the branch's
    ordinal in it, and the absolute position of the token drawn. `prompt` and `output` are the token ids
    so far, present only when `params.has_penalties`. `banned` are ids that must not be drawn now (end of
    sequence before `min_tokens`, the last token of a bad word).
    """

    logits_row: int
    params: SamplingParams
    seed: int
    stream: int
    position: int
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    banned: Sequence[int] = ()


class Score(NamedTuple):
    """A token that is there already and whose log-probability is wanted, with the `top` likeliest ones.

    `logits_row` indexes the rows of `Batch.logits_at`, as in `Draw`.
    """

    logits_row: int
    token_id: int
    top: int


@dataclass(slots=True)
class Batch:
    """Ints of one step over R rows and T new tokens (a decode row has one, a prefill chunk many).

    token_ids, positions, slots: T each; `slots[i] = page * page_size + offset` is where token i's K and V go.
    row_starts: R + 1, CSR of rows over the T tokens.
    kv_lengths: R, tokens of KV a row attends to once its new tokens are written (position of last + 1).
    page_tables: R, page ids of each row from the root; `ceil(kv_length / page_size)` of them count.
    spans: the compressed trie over `page_tables`: pages read by exactly rows [first_row, end_row).
    copies: (source page, destination page) to copy in every layer before anything is written.
    logits_at: indices into the T tokens whose logits are wanted.
    draws: tokens to draw from those logits.
    scores: tokens of prompts to score with those logits.
    topology: changes whenever rows or spans differ from the step before other than by rows growing.
    unread: (i, d) for each of token_ids that is still on the device: token i is draw d of the step before.
    """

    token_ids: list[int]
    positions: list[int]
    slots: list[int]
    row_starts: list[int]
    kv_lengths: list[int]
    page_tables: list[Sequence[int]]
    spans: list[Span]
    copies: list[tuple[int, int]]
    logits_at: list[int]
    draws: list[Draw] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    topology: int = 0
    unread: list[tuple[int, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.kv_lengths)

    @property
    def is_decode(self) -> bool:
        """Whether every row brings exactly one new token."""
        return len(self.token_ids) == len(self.kv_lengths)

    @property
    def follows_in_order(self) -> bool:
        """Whether the tokens are the first draws of the step before, one after another."""
        return self.unread == [(i, i) for i in range(len(self.token_ids))]
