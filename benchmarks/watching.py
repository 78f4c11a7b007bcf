"""A search as it grows, drawn as a tree of thoughts in a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from dendrite_core.search import Event, TokenCount
from dendrite_core.search.events import View

_GOOD, _FAIR = 0.9, 0.0


class Growing:
    """The tree of a search after each of its events. What was pruned is counted, not drawn."""

    def __init__(self, question: str) -> None:
        self.question = question
        self._views: dict[int, View] = {}
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        self._count = TokenCount()
        self._ended: View | None = None

    def hear(self, event: Event) -> None:
        self._count = event.count
        for view in event.branches:
            if view.id not in self._views and view.parent is not None:
                self._children[view.parent].append(view.id)
            self._views[view.id] = view
        if event.kind == "finished" and event.branches:
            self._ended = event.branches[0]

    def drawn(self) -> RenderableType:
        tree = Tree(Text(self.question, "bold"), guide_style="bright_black")
        self._draw(tree, 0)
        return Group(tree, self._status())

    def _draw(self, tree: Tree, node: int) -> None:
        gone: Counter[str] = Counter()
        for child in self._children[node]:
            view = self._views[child]
            if view.status == "pruned":
                gone[_why_gone(view)] += 1
            else:
                self._draw(tree.add(_label(view)), child)
        if gone:
            told = ", ".join(f"{count} {why}" for why, count in gone.items())
            tree.add(Text(f"{told}: pruned, their pages are free", "bright_black"))

    def _status(self) -> Text:
        made = len(self._views)
        alive = sum(view.status != "pruned" for view in self._views.values())
        status = Text(f"{made} thoughts, {alive} kept · ", "bright_black")
        status.append(f"{self._count.computed:,} tokens computed", "cyan")
        status.append(f" · {self._count.cached:,} found in the tree", "bright_black")
        return status


def _why_gone(view: View) -> str:
    if view.score is None:
        return "said before"
    return "less likely" if view.score > _FAIR else "impossible"


def _label(view: View) -> Text:
    text = view.text.strip()
    if view.status == "solved":
        return Text(f"{text}   ✓ 24", "bold green")
    if view.score is None:
        return Text(text)
    mark, style = ("sure", "green") if view.score > _GOOD else ("likely", "yellow")
    if view.score <= _FAIR:
        mark, style = "impossible", "red"
    label = Text(text, style)
    label.append(f"   {mark}", f"dim {style}")
    return label
