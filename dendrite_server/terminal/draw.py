"""Trees for a terminal: rich trees coloured by score, of a server's branches or of a search's thoughts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from dendrite_server.trees.label import plain_text, shortened, tone_of

WIDTH = 56
COLOURS = {"good": "green", "fair": "yellow", "poor": "red", "plain": ""}


def clean(text: str) -> str:
    """Without what could drive a terminal: whatever is no printable character is a dot."""
    return "".join(char if char.isprintable() else "·" for char in text)


def branch_tree(branches: Iterable[Mapping[str, Any]]) -> Tree:
    """Branches as `/v1/trees` has them; prompts that added nothing are left out."""
    by_id = {one["id"]: one for one in branches}
    root = Tree(Text("tree", style="dim"), guide_style="dim", hide_root=True)
    drawn: dict[str, Tree] = {}
    for name, one in by_id.items():
        above = drawn.get(one["parent_id"] or "", root)
        is_joint = one["kind"] == "prompt" and one["own_tokens"] == 0
        drawn[name] = above if is_joint else above.add(_branch_label(one))
    return root


def _branch_label(branch: Mapping[str, Any]) -> Text:
    score = branch["metadata"].get("score")
    score = score if isinstance(score, int | float) else None
    running = branch["status"] == "running"
    text = shortened(clean(plain_text(branch["text"])), WIDTH)
    label = Text("● " if running else "", style="blue")
    style = "bold" if branch["kind"] == "prompt" else COLOURS[tone_of(score)]
    label.append(text or ("…" if running else "(nothing yet)"), style=style)
    shared, owned = branch["pages"]["shared"], branch["pages"]["owned"]
    notes = [f"{branch['own_tokens']} tok", f"{shared}+{owned} pages"]
    notes += [] if branch["fork_us"] is None else [f"forked in {branch['fork_us']:.0f} µs"]
    notes += [] if score is None else [f"score {score:.2g}"]
    notes += ["pinned"] if branch["pinned"] else []
    return label.append("  " + " · ".join(notes), style="dim")


def thought_tree(prompt: str, views: Iterable[Mapping[str, Any]]) -> Tree:
    """Thoughts of a search by its own numbers; repeats, which nobody judged, are only counted."""
    ordered = sorted((one for one in views if one["parent"] is not None), key=lambda one: int(one["id"]))
    dropped: dict[int, int] = {}
    for one in filter(_is_dropped, ordered):
        dropped[one["parent"]] = dropped.get(one["parent"], 0) + 1
    root = Tree(_counted(Text(shortened(clean(prompt), WIDTH), "bold"), dropped.get(0, 0)), guide_style="dim")
    drawn = {0: root}
    for one in ordered:
        if not _is_dropped(one) and one["parent"] in drawn:
            label = _counted(_thought_label(one), dropped.get(one["id"], 0))
            drawn[one["id"]] = drawn[one["parent"]].add(label)
    return root


def _is_dropped(view: Mapping[str, Any]) -> bool:
    return view["status"] == "pruned" and view["score"] is None


def _counted(label: Text, dropped: int) -> Text:
    return label.append(f"  {dropped} dropped", style="dim") if dropped else label


def _thought_label(view: Mapping[str, Any]) -> Text:
    solved, pruned = view["status"] == "solved", view["status"] == "pruned"
    colour = COLOURS[tone_of(view["score"])]
    style = f"bold {colour}" if solved else f"dim {colour}" if pruned else colour
    label = Text(shortened(clean(view["text"].strip()), WIDTH) or "(nothing)", style=style)
    notes = [] if view["score"] is None else [f"{view['score']:.2g}"]
    notes += [f"visited {view['visits']}×"] if view["visits"] else []
    notes += ["solved"] if solved else ["freed"] if pruned else []
    return label.append("  " + " · ".join(notes), style="dim")
