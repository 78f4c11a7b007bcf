"""What the methods that search over thoughts have in common: one step of growing, checking and scoring.

A method is a frozen set of choices; all that changes in a search is in its `Tree`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dendrite_core.errors import RequestError
from dendrite_core.search.evaluators import Evaluator, Goal, MeanLogprob
from dendrite_core.search.generators import Generator, Sample
from dendrite_core.search.tree import Branch, Tree


class Method(Protocol):
    """A way to search: `run` grows the tree until there is nothing left to do, `best` names the answer.

    `run` may be ended anywhere by `BudgetExhausted` or a cancel; `best` must make sense then, too.
    """

    async def run(self, tree: Tree) -> None: ...

    def best(self, tree: Tree) -> Branch | None: ...


@dataclass(frozen=True, kw_only=True)
class Guided:
    """Thoughts come from `generator`, are worth what `evaluator` says, and solve the task if `goal` says so.

    Without a goal every text that the model ended itself is an answer, and the best scored one wins.
    `distinct` prunes children that repeat a sibling's text.
    """

    generator: Generator = field(default_factory=Sample)
    evaluator: Evaluator = field(default_factory=MeanLogprob)
    goal: Goal | None = None
    stop_at_solution: bool = True
    distinct: bool = True

    @property
    def reads_logprobs(self) -> bool:
        return self.evaluator.reads_logprobs

    def is_done(self, tree: Tree) -> bool:
        return self.stop_at_solution and bool(tree.solutions)

    async def expand(
        self, tree: Tree, branches: Sequence[Branch], n: int, *, evaluate: bool = True
    ) -> list[list[Branch]]:
        """`n` new children of each branch, checked against the goal and scored: two batches at most."""
        grown = await self.generator.grow(tree, branches, n, logprobs=self.reads_logprobs)
        if self.distinct:
            grown = await _without_repeats(tree, grown)
        children = [child for siblings in grown for child in siblings]
        for branch in branches:
            set_priors(branch.children)
        self.check(tree, children)
        if evaluate and not self.is_done(tree):
            await self.score(tree, children)
        return grown

    def check(self, tree: Tree, branches: Iterable[Branch]) -> None:
        """Mark the solutions among new branches; a text that has ended without solving is worth nothing."""
        if self.goal is None:
            return
        for branch in branches:
            if self.goal(branch):
                branch.score = 1.0
                tree.solve(branch)
            elif branch.finished:
                branch.score = 0.0

    async def score(self, tree: Tree, branches: Sequence[Branch]) -> None:
        """Score what has no score yet, in one batch."""
        unscored = [branch for branch in branches if branch.score is None]
        if unscored:
            scores = await self.evaluator.score(tree, unscored)
            for branch, score in zip(unscored, scores, strict=True):
                branch.score = score
        tree.tell("scored", branches)

    def best(self, tree: Tree) -> Branch | None:
        """The best solution, else the best ended text, else the best thought; living ones first."""
        return max(tree.branches[1:], key=rank, default=None)


def rank(branch: Branch) -> tuple[bool, bool, bool, float]:
    score = -math.inf if branch.score is None else branch.score
    return branch.solved, branch.alive, branch.finished, score


def set_priors(siblings: Sequence[Branch]) -> None:
    """The model's own probabilities of siblings, made to add up to one; equal where they are not known."""
    known = [one.logprob for one in siblings if one.logprob is not None]
    if len(known) < len(siblings):
        weights = [1.0] * len(siblings)
    else:
        weights = [math.exp(logprob - max(known)) for logprob in known]
    for branch, weight in zip(siblings, weights, strict=True):
        branch.prior = weight / sum(weights)


def at_least(name: str, value: float | None, low: float) -> None:
    """Raises `RequestError` for a setting below its least value."""
    if value is not None and value < low:
        raise RequestError(f"{name} must be at least {low:g}, got {value:g}", param=name)


async def _without_repeats(tree: Tree, grown: list[list[Branch]]) -> list[list[Branch]]:
    kept = [_first_of_each(siblings) for siblings in grown]
    repeats = [one for siblings, left in zip(grown, kept, strict=True) for one in siblings if one not in left]
    await tree.prune(repeats)
    return kept


def _first_of_each(fresh: Sequence[Branch]) -> list[Branch]:
    """Those whose text no living sibling had before, newest last."""
    if not fresh or fresh[0].parent is None:
        return list(fresh)
    seen = {one.text.strip() for one in fresh[0].parent.children if one.alive and one not in fresh}
    left = []
    for branch in fresh:
        text = branch.text.strip()
        if text not in seen:
            seen.add(text)
            left.append(branch)
    return left
