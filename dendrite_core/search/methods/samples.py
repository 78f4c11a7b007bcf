"""Independent answers: the best of n, and the one that most of them agree on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from dendrite_core.search.evaluators import RegexCheck
from dendrite_core.search.methods.guided import Guided, at_least
from dendrite_core.search.tree import Branch, Tree


@dataclass(frozen=True, kw_only=True)
class BestOf(Guided):
    """`n` whole answers, of which the best scored one counts.

    They are one batch, or several of `wave` answers each, after which a solution ends the search.
    """

    n: int = 8
    wave: int | None = None

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)
        at_least("wave", self.wave, 1)

    async def run(self, tree: Tree) -> None:
        left = self.n
        while left > 0 and not self.is_done(tree):
            count = min(left, self.wave or left)
            await self.expand(tree, [tree.root], count)
            left -= count


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(Guided):
    """`n` whole answers and a vote: what `answer` finds in most of them wins.

    The score of a branch is the share of votes that agree with it, weighted by `evaluator` if `weighted`.
    """

    n: int = 8
    answer: RegexCheck = field(default_factory=lambda: RegexCheck(r"(?s).*\S.*"))
    weighted: bool = False
    distinct: bool = False
    stop_at_solution: bool = False

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)

    @property
    def reads_logprobs(self) -> bool:
        return self.weighted and self.evaluator.reads_logprobs

    async def run(self, tree: Tree) -> None:
        (answers,) = await self.expand(tree, [tree.root], self.n, evaluate=self.weighted)
        self._vote(answers)
        tree.tell("scored", answers)

    def _vote(self, answers: list[Branch]) -> None:
        found = {branch: self.answer.extract(branch.path_text) for branch in answers}
        votes: defaultdict[str, float] = defaultdict(float)
        for branch, text in found.items():
            if text is not None:
                votes[text] += (branch.score or 0.0) if self.weighted else 1.0
        total = sum(votes.values())
        for branch, text in found.items():
            branch.score = votes[text] / total if text is not None and total else 0.0
