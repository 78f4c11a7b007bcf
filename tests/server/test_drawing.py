"""Trees drawn as Mermaid, Graphviz and SVG: against golden pictures, and whatever their texts contain."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dendrite_core.engine.messages import BranchInfo
from dendrite_server.trees.drawing import Drawing
from dendrite_server.trees.graph_text import as_dot, as_mermaid
from dendrite_server.trees.svg import GAP_X, HEIGHT, MARGIN, WIDTH, as_svg

SVG = "{http://www.w3.org/2000/svg}"


def branch(name: str, parent: str | None, text: str, **fields: Any) -> BranchInfo:
    known: dict[str, Any] = {"kind": "completion", "own_tokens": 4, "running": False, "pinned": False}
    counts: dict[str, Any] = {"length": 9, "kv_tokens": 8, "pages_shared": 0, "pages_owned": 1}
    rest: dict[str, Any] = {"tree_id": "t", "children": (), "cached_tokens": 0, "fork_us": None}
    rest |= {"pinned_for": None, "finish_reason": None}
    return BranchInfo(branch_id=name, parent_id=parent, text=text, **{**known, **counts, **rest, **fields})


PUZZLE = [
    branch("p", None, "<|im_start|>user\nExplore 24: 4 9 10 13<|im_end|>\n", kind="prompt"),
    branch("a", "p", '10 - 4 = 6 (left: "6" 9 13)\n', metadata={"score": 1}),
    branch("b", "p", "4 * 13 = 52\\", metadata={"score": 0.0}, pinned=True),
    branch("c", "a", "", running=True, own_tokens=0),
]


def test_mermaid_of_a_small_tree() -> None:
    assert as_mermaid(Drawing.of(PUZZLE)) == (
        "flowchart LR\n"
        '  b0["Explore 24: 4 9 10 13<br/>4 tokens"]:::plain\n'
        '  b1["10 - 4 = 6 (left: #34;6#34; 9 13)<br/>4 tokens #183; score 1"]:::good\n'
        '  b2["4 * 13 = 52#92;<br/>4 tokens #183; score 0 #183; pinned"]:::poor\n'
        '  b3["…<br/>0 tokens"]:::running\n'
        "  b0 --> b1\n  b0 --> b2\n  b1 --> b3\n"
        "  classDef good stroke:#1a7f4b\n  classDef fair stroke:#9a6700\n  classDef poor stroke:#b3261e\n"
        "  classDef plain stroke:#6b7280\n  classDef running stroke:#2563eb,stroke-dasharray:4 3\n"
    )


def test_dot_of_a_small_tree() -> None:
    assert as_dot(Drawing.of(PUZZLE)) == (
        "digraph tree {\n"
        '  rankdir=LR;\n  node [shape=box, style=rounded, fontname="sans-serif"];\n'
        '  b0 [label="Explore 24: 4 9 10 13\\n4 tokens", color="#6b7280"];\n'
        '  b1 [label="10 - 4 = 6 (left: \\"6\\" 9 13)\\n4 tokens · score 1", color="#1a7f4b"];\n'
        '  b2 [label="4 * 13 = 52\\\\\\n4 tokens · score 0 · pinned", color="#b3261e"];\n'
        '  b3 [label="…\\n0 tokens", color="#6b7280", style="rounded,dashed"];\n'
        "  b0 -> b1;\n  b0 -> b2;\n  b1 -> b3;\n}\n"
    )


def test_svg_of_a_small_tree() -> None:
    picture = ElementTree.fromstring(as_svg(Drawing.of(PUZZLE)))
    boxes = [(one.get("class"), one.get("transform")) for one in picture.iter(f"{SVG}g")]
    second, third = MARGIN + WIDTH + GAP_X, MARGIN + 2 * (WIDTH + GAP_X)
    assert boxes == [
        ("plain", f"translate({MARGIN} 49)"),
        ("good", f"translate({second} 20)"),
        ("poor", f"translate({second} 78)"),
        ("plain running", f"translate({third} 20)"),
    ]
    assert picture.get("viewBox") == f"0 0 {third + WIDTH + MARGIN} {2 * HEIGHT + 14 + 2 * MARGIN}"
    labels = [one.text for one in picture.iter(f"{SVG}text") if one.get("class") == "label"]
    assert labels == ["Explore 24: 4 9 10 13", '10 - 4 = 6 (left: "6" 9 13)', "4 * 13 = 52\\", "…"]
    assert len(list(picture.iter(f"{SVG}path"))) == 3


def test_a_prompt_that_added_nothing_is_left_out() -> None:
    joint = branch("j", "a", "", kind="prompt", own_tokens=0)
    tree = [branch("p", None, "one", kind="prompt"), branch("a", "p", "two"), joint]
    boxes = Drawing.of([*tree, branch("b", "j", "three")]).boxes
    assert [(box.label, box.parent, box.column) for box in boxes] == [
        ("one", None, 0),
        ("two", 0, 1),
        ("three", 1, 2),
    ]


# Any tree: the parent of each branch, or none, and texts of all that can be typed to break a format.
HOSTILE = st.text(st.sampled_from('a"\\<>&#;[](){}|`\n\r\x00\x0b\ud7ff\ufffe\u2028é😀-%:$')) | st.text()


@st.composite
def trees(draw: st.DrawFn) -> list[BranchInfo]:
    texts = draw(st.lists(HOSTILE, max_size=9))
    names = [f"b{at}" for at in range(len(texts))]
    above = [draw(st.none() | st.sampled_from(names[:at])) if at else None for at in range(len(texts))]
    return [branch(*one) for one in zip(names, above, texts, strict=True)]


@given(trees())
def test_no_text_breaks_out_of_any_format(tree: list[BranchInfo]) -> None:
    drawing = Drawing.of(tree)
    labels = [box.label for box in drawing.boxes]
    edges = [(parent.at, child.at) for parent, child in drawing.edges]
    assert len(edges) == sum(one.parent_id is not None for one in tree)
    assert read_mermaid(as_mermaid(drawing)) == (labels, edges)
    shown = [re.sub(r"[\x00-\x1f\x7f]", "\ufffd", label) for label in labels]
    assert read_dot(as_dot(drawing)) == (shown, edges)
    picture = ElementTree.fromstring(as_svg(drawing).encode("utf-8", "surrogatepass"))
    found = [one.text for one in picture.iter(f"{SVG}text") if one.get("class") == "label"]
    assert [re.sub("[^ -~]", "", one or "") for one in found] == [re.sub("[^ -~]", "", one) for one in labels]


def read_mermaid(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Labels and edges by Mermaid's rules for quoted labels: no quote inside, `#NUMBER;` for a character."""
    head, *lines = text.removesuffix("\n").split("\n")
    assert head == "flowchart LR"
    labels, edges = [], []
    for line in lines:
        if box := re.fullmatch(r'  b\d+\["([^"<>&`]*)<br/>[^"<>&`]*"\]:::\w+', line):
            labels.append(re.sub(r"#(\d+);", lambda found: chr(int(found[1])), box[1]))
        elif edge := re.fullmatch(r"  b(\d+) --> b(\d+)", line):
            edges.append((int(edge[1]), int(edge[2])))
        else:
            assert re.fullmatch(r"  classDef \w+ [\w:#,\- ]+", line), line
    return labels, edges


def read_dot(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Labels and edges by DOT's rules for quoted strings: a backslash takes the next character along."""
    labels = [
        re.sub(r"\\(.)", r"\1", label.rsplit("\\n", 1)[0])
        for label in re.findall(r'^  b\d+ \[label="((?:[^"\\\n]|\\.)*)", color', text, re.M)
    ]
    assert text.count("\n") == 4 + len(labels) + len(re.findall(r"^  b\d+ -> b\d+;$", text, re.M))
    return labels, [(int(a), int(b)) for a, b in re.findall(r"^  b(\d+) -> b(\d+);$", text, re.M)]


@given(trees())
def test_boxes_have_places_of_their_own_and_parents_lie_amid_their_children(tree: list[BranchInfo]) -> None:
    boxes = Drawing.of(tree).boxes
    assert len({(box.column, box.row) for box in boxes}) == len(boxes)
    for box in boxes:
        rows = [child.row for child in boxes if child.parent == box.at]
        assert box.column == (0 if box.parent is None else boxes[box.parent].column + 1)
        assert not rows or box.row == (min(rows) + max(rows)) / 2


@pytest.mark.parametrize(
    ("format", "media", "begins"),
    [
        ("mermaid", "text/vnd.mermaid", "flowchart LR\n"),
        ("dot", "text/vnd.graphviz", "digraph tree {\n"),
        ("svg", "image/svg+xml", "<svg "),
        ("json", "application/json", '{"id":'),
    ],
)
def test_a_tree_comes_in_the_format_asked_for(
    http: httpx.Client, format: str, media: str, begins: str
) -> None:
    made = http.post("/v1/completions", json={"prompt": "one two", "n": 3, "max_tokens": 2}).json()["tree"]
    answer = http.get(f"/v1/trees/{made['tree_id']}", params={"format": format})
    assert answer.headers["content-type"].split(";")[0] == media
    assert answer.text.startswith(begins)
    if format == "svg":
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_another_format_is_refused_by_name(http: httpx.Client) -> None:
    for query in ("?format=png", "?format="):
        answer = http.get(f"/v1/trees/any{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "format")
    assert http.get("/v1/trees/any?size=3").json()["error"]["param"] == "size"
    assert http.get("/v1/trees/any?format=svg").status_code == 404
