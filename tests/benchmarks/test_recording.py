"""The animated picture shows at every moment what the terminal showed then."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from xml.etree import ElementTree

import pytest
from rich.console import Console
from rich.style import Style
from rich.text import Text

from benchmarks.recording import LAST_WAIT, LONGEST_WAIT, Frame, Row, Stage, animation
from benchmarks.watching import Growing
from dendrite_core.search import Event, TokenCount
from dendrite_core.search.events import View

SVG = "{http://www.w3.org/2000/svg}"
GREEN = Style(color="green", bold=True)


def row(*texts: str) -> Row:
    return tuple((text, GREEN if text.isupper() else Style()) for text in texts)


def shown(svg: str, at: float) -> dict[int, list[str]]:
    """By an SVG viewer's rules: the texts of each line that are visible at a time, from the left."""
    lines: dict[int, list[tuple[float, str]]] = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        move = group.find(f"{SVG}animate")
        if move is not None:
            total = float(move.attrib["dur"].removesuffix("s"))
            keys = [float(key) for key in move.attrib["keyTimes"].split(";")]
            assert keys[0] == 0
            assert keys == sorted(keys)
            current = [
                v for k, v in zip(keys, move.attrib["values"].split(";"), strict=True) if k * total <= at
            ]
            if current[-1] == "hidden":
                continue
        for text in group.iter(f"{SVG}text"):
            lines.setdefault(int(text.attrib["y"]), []).append((float(text.attrib["x"]), text.text or ""))
    return {y: [text for _, text in sorted(texts)] for y, texts in sorted(lines.items())}


def test_every_frame_is_shown_while_it_lasted_and_waits_are_cut() -> None:
    frames = [
        Frame(0.0, (row("one"), row("two", " ", "BOLD"))),
        Frame(0.5, (row("one"), row("three"), row("<&>"))),
        Frame(60.0, (row("three"), row(), row("one"))),
    ]
    svg = animation(frames, "a & b")
    at = [0.25, 0.5 + LONGEST_WAIT / 2, 0.5 + LONGEST_WAIT + LAST_WAIT / 2]
    assert [list(shown(svg, moment).values()) for moment in at] == [
        [["one"], ["two", "BOLD"]],
        [["one"], ["three"], ["<&>"]],
        [["three"], ["one"]],
    ]
    assert 'font-weight="bold"' in svg


def view(id: int, parent: int | None, text: str, status: str = "open", score: float | None = None) -> View:
    return View(
        id=id,
        parent=parent,
        depth=0,
        text=text,
        status=status,
        score=score,
        visits=0,
        tokens=1,
        branch_id=None,
    )


def event(kind: str, *views: View) -> Event:
    return Event(kind=kind, seconds=1.0, branches=views, count=TokenCount(prompt=9, cached=4, generated=2))


@pytest.fixture
def growing() -> Growing:
    one = Growing("1 2 3 4")
    a, b = view(1, 0, "left\n"), view(2, 0, "right\n")
    one.hear(event("expanded", a, b))
    one.hear(event("scored", view(1, 0, "left\n", score=1.0), view(2, 0, "right\n", score=0.0)))
    one.hear(event("pruned", view(2, 0, "right\n", "pruned", 0.0)))
    one.hear(event("expanded", view(3, 1, "on")))
    one.hear(event("solved", view(3, 1, "on", "solved", 1.0)))
    return one


def test_a_search_is_drawn_as_a_tree_and_what_is_pruned_is_counted(growing: Growing) -> None:
    console = Console(width=60, record=True, file=StringIO())
    console.print(growing.drawn())
    assert [line.rstrip() for line in console.export_text().splitlines()] == [
        "1 2 3 4",
        "├── left   sure",
        "│   └── on   ✓ 24",
        "└── 1 impossible: pruned, their pages are free",
        "3 thoughts, 2 kept · 7 tokens computed · 4 found in the tree",
    ]


def test_a_stage_remembers_what_stays_and_what_changes(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage()
    stage.say("title")
    stage.change(Text("half"))
    stage.settle(Text("done", "green"))
    told = [["".join(text for text, _ in row) for row in frame.rows] for frame in stage.frames]
    assert told == [["title"], ["title", "half"], ["title", "done"]]
    assert capsys.readouterr().out.split() == ["title", "done"], "no half things where nobody watches"


def test_the_demo_needs_no_more_than_the_server() -> None:
    """On a fresh clone `scripts/demo` installs what `scripts/serve` does: no packages of the extras."""
    absent = "import sys\nfor name in ('aiohttp', 'matplotlib', 'openai', 'pytest'): sys.modules[name] = None"
    script = f"{absent}\nimport benchmarks.demo"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
