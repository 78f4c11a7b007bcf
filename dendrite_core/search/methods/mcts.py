"""Monte Carlo tree search over thoughts: UCT or PUCT, progressive widening, many leaves per batch.

Every new child is valued once, by the evaluator or by a rollout, and counts as one visit of itself and of
all above it. While a wave of leaves is being chosen, each choice counts as a loss (virtual loss), so that
the next one goes elsewhere and the whole wave is one batch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from dendrite_core.search.generators import Generator
from dendrite_core.search.methods.guided import Guided, at_least, rank
from dendrite_core.search.tree import Branch, Tree


@dataclass(frozen=True, kw_only=True)
class MonteCarlo(Guided):
    """`branching` children whenever a leaf is expanded, `wave` leaves at a time, at most `expansions` in all.

    `policy` "uct" goes down by Q + c * sqrt(ln N / n), "puct" by Q + c * P * sqrt(N) / (1 + n) with the
    model's own probability P. With `widening` w, a branch gets further children whenever it has fewer
    than w * N ** `widening_power`. `rollout` plays a leaf to its end and values that instead of the leaf.
    """

    branching: int = 4
    wave: int = 4
    expansions: int | None = None
    policy: Literal["uct", "puct"] = "uct"
    exploration: float = 1.4
    widening: float | None = None
    widening_power: float = 0.5
    rollout: Generator | None = None

    def __post_init__(self) -> None:
        for name in ("branching", "wave", "expansions"):
            at_least(name, getattr(self, name), 1)
        at_least("exploration", self.exploration, 0)

    @property
    def reads_logprobs(self) -> bool:
        return self.policy == "puct" or self.evaluator.reads_logprobs

    async def run(self, tree: Tree) -> None:
        climb = Climb(self)
        left = math.inf if self.expansions is None else self.expansions
        while left > 0 and not self.is_done(tree):
            leaves = climb.choose_wave(tree.root, int(min(self.wave, left)))
            if not leaves:
                return
            grown = await self.expand(tree, leaves, self.branching, evaluate=self.rollout is None)
            if self.rollout is not None and not self.is_done(tree):
                await self._play(tree, [child for children in grown for child in children])
            for leaf, children in zip(leaves, grown, strict=True):
                climb.learn(leaf, children)
            left -= len(leaves)

    async def _play(self, tree: Tree, children: list[Branch]) -> None:
        """Value children by one text each that goes on to its end, and forget those texts."""
        assert self.rollout is not None
        open_children = [child for child in children if child.open]
        if open_children:
            grown = await self.rollout.grow(tree, open_children, 1, logprobs=self.evaluator.reads_logprobs)
            ends = [end for played in grown for end in played]
            self.check(tree, ends)
            if not self.is_done(tree):
                await self.score(tree, ends)
            for child, played in zip(open_children, grown, strict=True):
                child.score = max((end.score or 0.0 for end in played), default=0.0)
            await tree.prune([end for end in ends if not end.solved])
            for child in open_children:
                child.children = [end for end in child.children if end.solved]
        await self.score(tree, children)

    def best(self, tree: Tree) -> Branch | None:
        """A solution, else the best ended text, else where most visits went."""
        ended = [one for one in tree.branches[1:] if one.solved or (one.finished and one.alive)]
        if ended:
            return max(ended, key=rank)
        here = tree.root
        while any(child.alive for child in here.children):
            here = max((c for c in here.children if c.alive), key=lambda c: (c.visits, c.score or 0.0))
        return here if here.parent is not None else None


@dataclass(slots=True)
class Climb:
    """Which branches there is nothing left to do below, while one search runs."""

    method: MonteCarlo
    closed: set[Branch] = field(default_factory=set)
    barren: set[Branch] = field(default_factory=set)

    def choose_wave(self, root: Branch, size: int) -> list[Branch]:
        """Up to `size` different branches to expand, found one after the other with virtual losses."""
        losses: Counter[Branch] = Counter()
        busy: set[Branch] = set()
        leaves: list[Branch] = []
        while len(leaves) < size and not self._is_out(root, busy):
            way = self._descend(root, losses, busy)
            busy.add(way[-1])
            if self._expandable(way[-1]):
                leaves.append(way[-1])
                losses.update(way)
        return leaves

    def _descend(self, root: Branch, losses: Counter[Branch], busy: set[Branch]) -> list[Branch]:
        """From the root to a branch that can be expanded, or to one where no way down is left."""
        way = [root]
        while not self._expandable(way[-1]):
            here = way[-1]
            children = [child for child in here.children if not self._is_out(child, busy)]
            if not children:
                break
            way.append(max(children, key=lambda child: self.upper_bound(here, child, losses)))
        return way

    def upper_bound(self, parent: Branch, child: Branch, losses: Counter[Branch]) -> float:
        """What going down to a child promises; losses count as visits that were worth nothing."""
        above, n = parent.visits + losses[parent], child.visits + losses[child]
        if n == 0:
            return math.inf
        value, c = child.total / n, self.method.exploration
        if self.method.policy == "puct":
            return value + c * (child.prior or 0.0) * math.sqrt(above) / (1 + n)
        return value + c * math.sqrt(math.log(max(above, 1)) / n)

    def learn(self, leaf: Branch, children: list[Branch]) -> None:
        """Carry the values of new children up to the root; a leaf without any counts as a loss."""
        if not children:
            self.barren.add(leaf)
        for child in children:
            _visit(child, child.score or 0.0)
        if not children:
            _visit(leaf, 0.0)
        for branch in (*children, leaf):
            self._close(branch)

    def _expandable(self, branch: Branch) -> bool:
        if not branch.open or branch in self.barren:
            return False
        if not branch.children:
            return True
        widening = self.method.widening
        if widening is None:
            return False
        alive = [child for child in branch.children if child.alive]
        room = len(alive) < widening * branch.visits**self.method.widening_power
        return room or all(child in self.closed for child in alive)

    def _is_out(self, branch: Branch, busy: set[Branch]) -> bool:
        return branch in busy or branch in self.closed or not branch.alive

    def _close(self, branch: Branch | None) -> None:
        while branch is not None and not self._expandable(branch):
            if any(child.alive and child not in self.closed for child in branch.children):
                return
            self.closed.add(branch)
            branch = branch.parent


def _visit(branch: Branch, value: float) -> None:
    here: Branch | None = branch
    while here is not None:
        here.visits += 1
        here.total += value
        here = here.parent
