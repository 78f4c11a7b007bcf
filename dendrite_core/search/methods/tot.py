"""Tree of Thoughts: level by level with a beam of thoughts, or depth first with backtracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dendrite_core.search.methods.guided import Guided, at_least, rank
from dendrite_core.search.tree import Branch, Tree


@dataclass(frozen=True, kw_only=True)
class TreeOfThoughts(Guided):
    """`branching` thoughts from every kept branch, each scored.

    `order` "bfs" goes on with the best `width` of a level; "dfs" goes on with the best child first and
    comes back when nothing below it is left. Thoughts scored below `threshold` are pruned at once.
    """

    order: Literal["bfs", "dfs"] = "bfs"
    width: int = 5
    branching: int = 4
    threshold: float | None = None

    def __post_init__(self) -> None:
        at_least("width", self.width, 1)
        at_least("branching", self.branching, 1)

    async def run(self, tree: Tree) -> None:
        if self.order == "bfs":
            await self._by_level(tree)
        else:
            await self._by_depth(tree, tree.root)

    async def _by_level(self, tree: Tree) -> None:
        frontier = [tree.root]
        answers: list[Branch] = []
        while frontier and not self.is_done(tree):
            grown = await self.expand(tree, frontier, self.branching)
            children = [child for siblings in grown for child in siblings]
            if self.is_done(tree):
                return
            good = self._sorted([child for child in children if self._is_good(child)])
            answers += [child for child in children if self._is_answer(child)]
            # At the depth limit nothing is open: its best thoughts are what there is to show.
            frontier = [child for child in good if child.open][: self.width]
            await tree.keep([*(frontier or good[: self.width]), *answers, *tree.solutions])

    async def _by_depth(self, tree: Tree, branch: Branch) -> None:
        """Everything below a branch, best first; returns early when the search is done."""
        (children,) = await self.expand(tree, [branch], self.branching)
        for child in self._sorted(children):
            if self._found(tree, child):
                return
            if child.open and self._is_good(child):
                await self._by_depth(tree, child)
                if self._found(tree, child):
                    return
            if not child.solved:
                await child.prune()

    def _found(self, tree: Tree, child: Branch) -> bool:
        """Depth first, an ended text is what was looked for, unless there is a goal."""
        if self.goal is not None:
            return self.is_done(tree)
        return any(one.finished and self._is_good(one) for one in child.subtree() if one.alive)

    def _is_good(self, branch: Branch) -> bool:
        score = branch.score or 0.0
        return score > 0.0 if self.threshold is None else score >= self.threshold

    def _is_answer(self, branch: Branch) -> bool:
        return branch.finished and self.goal is None

    def best(self, tree: Tree) -> Branch | None:
        """A solution, else the best ended text, else the best of the furthest living thoughts."""
        return max(tree.branches[1:], key=_rank_by_depth, default=None)

    @staticmethod
    def _sorted(branches: list[Branch]) -> list[Branch]:
        return sorted(branches, key=lambda branch: branch.score or 0.0, reverse=True)


def _rank_by_depth(branch: Branch) -> tuple[bool, bool, bool, int, float]:
    solved, alive, finished, score = rank(branch)
    return solved, alive, finished, 0 if finished else branch.depth, score
