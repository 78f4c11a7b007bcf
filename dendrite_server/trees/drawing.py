"""`Drawing`: a tree as boxes with a place each, whatever it is then drawn with.

The layout is a tidy one for trees that grow to the right: a column per depth, leaves on rows of their own
in the order of their birth, every parent in the middle of its children.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dendrite_core.engine.messages import BranchInfo
from dendrite_server.trees.label import plain_text, shortened, tone_of

LABEL_LENGTH = 44


@dataclass(frozen=True, slots=True)
class Box:
    """A branch in a drawing. `parent` is an earlier box; `tone` is `good`, `fair`, `poor` or `plain`."""

    at: int
    parent: int | None
    label: str
    note: str
    tone: str
    running: bool
    column: int
    row: float


@dataclass(frozen=True, slots=True)
class Drawing:
    boxes: tuple[Box, ...]

    @classmethod
    def of(cls, branches: Sequence[BranchInfo]) -> Drawing:
        """`branches` come parents first; one whose parent is gone stands at the beginning.

        Prompts that added nothing are left out: their children hang on what is above them.
        """
        above: dict[str, int | None] = {}
        shown: list[BranchInfo] = []
        parents: list[int | None] = []
        for one in branches:
            parent = above.get(one.parent_id or "")
            if one.kind == "prompt" and one.own_tokens == 0:
                above[one.branch_id] = parent
                continue
            above[one.branch_id] = len(shown)
            shown.append(one)
            parents.append(parent)
        columns, rows = _layout(parents)
        return cls(
            tuple(
                Box(at, parents[at], _label(one), _note(one), tone(one), one.running, columns[at], rows[at])
                for at, one in enumerate(shown)
            )
        )

    @property
    def edges(self) -> Iterator[tuple[Box, Box]]:
        for box in self.boxes:
            if box.parent is not None:
                yield self.boxes[box.parent], box


def tone(branch: BranchInfo) -> str:
    """What a branch's `score`, if its metadata has one between 0 and 1, is worth."""
    return tone_of(score_of(branch))


def score_of(branch: BranchInfo) -> float | None:
    score = branch.metadata.get("score")
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None


def _label(branch: BranchInfo) -> str:
    return shortened(plain_text(branch.text), LABEL_LENGTH) or ("…" if branch.running else "(nothing yet)")


def _note(branch: BranchInfo) -> str:
    score = score_of(branch)
    parts = [f"{branch.own_tokens} tokens"]
    parts += [] if score is None else [f"score {score:.2g}"]
    parts += ["pinned"] if branch.pinned else []
    return " · ".join(parts)


def _layout(parents: Sequence[int | None]) -> tuple[list[int], list[float]]:
    """(column, row) of each: leaves on whole rows from the top, parents amid their children."""
    children: list[list[int]] = [[] for _ in parents]
    columns = [0] * len(parents)
    for at, parent in enumerate(parents):
        if parent is not None:
            children[parent].append(at)
            columns[at] = columns[parent] + 1
    rows = [0.0] * len(parents)
    free = 0
    stack = [(at, False) for at, parent in reversed(list(enumerate(parents))) if parent is None]
    while stack:
        at, done = stack.pop()
        if done:
            rows[at] = (rows[children[at][0]] + rows[children[at][-1]]) / 2
        elif children[at]:
            stack.append((at, True))
            stack += [(child, False) for child in reversed(children[at])]
        else:
            rows[at], free = float(free), free + 1
    return columns, rows
