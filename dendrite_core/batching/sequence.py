"""`Sequence`: a branch being computed, and what the scheduler must know of it.

A sequence is either a prompt on its way to its first logits (`children` > 0: that many tokens will be
drawn from them) or one child that grows by a token per step. Text state lives with the engine.
"""

from __future__ import annotations

from array import array

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
    prompt's tokens from the second on, when asked for. `grammar` is where it stands in what constrains it,
    `bad_words` the token sequences that it may not complete. `behind` is whom it waits for, who computes
    the first tokens of this one too, as many as said.

    A step may be scheduled before the tokens of the one before are known. `longest` is the length at which
    the sequence ends at the latest. `computing` tokens of it are in steps whose KV is not committed yet,
    and `drawing` tokens are drawn by those steps and not appended yet, the last as draw number `draw_at`.
    What comes after a step of a sequence that `needs_tokens` depends on which tokens were drawn in it.
    """

    __slots__ = (
        "admitted",
        "bad_words",
        "behind",
        "branch",
        "cached",
        "children",
        "computing",
        "draw_at",
        "drawing",
        "end_ids",
        "grammar",
        "has_penalties",
        "history",
        "is_prompt",
        "longest",
        "needs_tokens",
        "order",
        "owner",
        "params",
        "prompt_length",
        "scored",
        "seed",
        "stream",
        "table",
        "wants_scores",
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
        longest: int,
        stream: int = 0,
        children: int = 0,
        grammar: GrammarState | None = None,
        bad_words: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        self.branch = branch
        self.params = params
        self.seed = seed
        self.order = order
        self.end_ids = end_ids
        self.owner = owner
        self.prompt_length = prompt_length
        self.longest = longest
        self.stream = stream
        self.children = children
        self.grammar = grammar
        self.bad_words = bad_words
        self.behind: tuple[Sequence, int] | None = None
        self.cached: int | None = None
        self.admitted = 0.0
        self.scored: list[tuple[float, list[tuple[int, float]]]] = []
        self.table: PageTable | None = None
        self.has_penalties = params.has_penalties
        # An array, because numpy reads it as it is where a list would be read token by token.
        self.history = array("q", branch.tokens() if self.has_penalties else ())
        self.computing = self.drawing = self.draw_at = 0
        self.is_prompt = children > 0
        self.wants_scores = self.is_prompt and params.prompt_logprobs is not None
        self.needs_tokens = bool(self.is_prompt or grammar or self.has_penalties or bad_words)

    @property
    def pending(self) -> int:
        """Tokens whose KV no step has computed yet or is computing; at one, the next step yields logits."""
        branch, drawing = self.branch, self.drawing
        length = branch.start + len(branch.own) + drawing
        return length - branch.kv_length - self.computing if not drawing or length < self.longest else 0

    def banned(self, length: int) -> tuple[int, ...]:
        """Ids that may not be drawn at `length`: ends before `min_tokens`, what would complete a bad word."""
        split = self.prompt_length
        ends = self.end_ids if length < split + self.params.min_tokens else ()
        if not self.bad_words:
            return ends
        longest = max(map(len, self.bad_words))
        said = self.branch.tokens(max(split, length - longest + 1), length)
        begun = [w[-1] for w in self.bad_words if len(w) == 1 or tuple(said[1 - len(w) :]) == w[:-1]]
        return (*ends, *begun)

    @property
    def running(self) -> bool:
        return self.table is not None

    def append(self, token: int) -> None:
        """Take the token drawn from this sequence's last logits."""
        self.branch.append(token)
        if self.has_penalties:
            self.history.append(token)
