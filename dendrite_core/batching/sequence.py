"""`Sequence`: a branch being computed, and what the scheduler must know of it.

A sequence is either a prompt on its way to its first logits (`children` > 0: that many tokens will be
drawn from them) or one child that grows by a token per step. Text state lives with the engine.
"""

from __future__ import annotations

from dendrite_core.cache.branch import Branch
from dendrite_core.cache.page_table import PageTable
from dendrite_core.params import SamplingParams
from dendrite_core.text.grammar import GrammarState

Order = tuple[int, int, int]


class Sequence:
    """A branch with its sampling parameters and its place in the queue.

    `order` is (priority, arrival, index): smaller runs earlier and is preempted later. `stream` is the
    child's index within its request; with `seed` and a position it keys every random number. `owner` is
    whoever wants the tokens, of no meaning here. `cached` is the KV found when it first started to run,
    which was at `admitted` (seconds of the monotonic clock); `scored` the (logprob, best ones) of the
    prompt's tokens from the second on, when asked for. `grammar` is where it stands in what constrains it.
    """

    __slots__ = (
        "admitted",
        "branch",
        "cached",
        "children",
        "end_ids",
        "grammar",
        "history",
        "order",
        "owner",
        "params",
        "prompt_length",
        "scored",
        "seed",
        "stream",
        "table",
    )

    def __init__(
        self,
        branch: Branch,
        *,
        params: SamplingParams,
        seed: int,
        order: Order,
        end_ids: tuple[int, ...],
        owner: object,
        prompt_length: int,
        stream: int = 0,
        children: int = 0,
        grammar: GrammarState | None = None,
    ) -> None:
        self.branch = branch
        self.params = params
        self.seed = seed
        self.order = order
        self.end_ids = end_ids
        self.owner = owner
        self.prompt_length = prompt_length
        self.stream = stream
        self.children = children
        self.grammar = grammar
        self.cached: int | None = None
        self.admitted = 0.0
        self.scored: list[tuple[float, list[tuple[int, float]]]] = []
        self.table: PageTable | None = None
        self.history = branch.tokens() if params.has_penalties else []

    @property
    def pending(self) -> int:
        """Tokens whose KV is not computed yet; at one, the next step yields logits."""
        return len(self.branch) - self.branch.kv_length

    @property
    def wants_scores(self) -> bool:
        return self.is_prompt and self.params.prompt_logprobs is not None

    @property
    def is_prompt(self) -> bool:
        return self.children > 0

    @property
    def running(self) -> bool:
        return self.table is not None

    def append(self, token: int) -> None:
        """Take the token drawn from this sequence's last logits."""
        self.branch.append(token)
        if self.params.has_penalties:
            self.history.append(token)
