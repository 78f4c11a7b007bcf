"""A drawing as an SVG that needs nothing else: light or dark as its viewer is, text as text."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from dendrite_server.trees.drawing import Box, Drawing

# Pixels.
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 248, 44, 56, 14, 20

_STYLE = """
    svg { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; background: #fbfbfa; }
    .edge { fill: none; stroke: #c9c9c4; stroke-width: 1.5; }
    .box { fill: #ffffff; stroke: #d4d4cf; }
    .bar { fill: #b4b4ae; } .good .bar { fill: #1a7f4b; } .fair .bar { fill: #b7791f; }
    .poor .bar { fill: #c2410c; }
    .running .box { stroke: #2563eb; stroke-dasharray: 4 3; }
    .label { font-size: 12px; fill: #1c1c1a; } .note { font-size: 10.5px; fill: #74746e; }
    @media (prefers-color-scheme: dark) {
      svg { background: #141413; } .edge { stroke: #43433f; } .box { fill: #1e1e1c; stroke: #3a3a36; }
      .label { fill: #ececea; } .note { fill: #9b9b94; } .bar { fill: #6b6b65; }
      .good .bar { fill: #3fb27f; } .fair .bar { fill: #d9a441; } .poor .bar { fill: #e5734f; }
      .running .box { stroke: #6ea0ff; }
    }
  """
# What XML cannot hold at all.
_IMPOSSIBLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_svg(drawing: Drawing) -> str:
    columns = max((box.column for box in drawing.boxes), default=0) + 1
    rows = max((box.row for box in drawing.boxes), default=0) + 1
    width = columns * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    height = rows * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    body = [_edge(parent, child) for parent, child in drawing.edges]
    body += [_box(box) for box in drawing.boxes]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img">\n'
        f"  <title>A tree of {len(drawing.boxes)} branches</title>\n"
        f"  <style>{_STYLE}</style>\n" + "".join(f"  {line}\n" for line in body) + "</svg>\n"
    )


def _corner(box: Box) -> tuple[float, float]:
    return MARGIN + box.column * (WIDTH + GAP_X), MARGIN + box.row * (HEIGHT + GAP_Y)


def _edge(parent: Box, child: Box) -> str:
    (left, top), (right, bottom) = _corner(parent), _corner(child)
    x, y, to_x, to_y = left + WIDTH, top + HEIGHT / 2, right, bottom + HEIGHT / 2
    bend = (x + to_x) / 2
    return f'<path class="edge" d="M{x:g} {y:g}C{bend:g} {y:g} {bend:g} {to_y:g} {to_x:g} {to_y:g}"/>'


def _box(box: Box) -> str:
    x, y = _corner(box)
    kind = f"{box.tone} running" if box.running else box.tone
    return (
        f'<g class="{kind}" transform="translate({x:g} {y:g})">'
        f'<rect class="box" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<rect class="bar" x="0" y="8" width="3" height="{HEIGHT - 16}" rx="1.5"/>'
        f'<text class="label" x="12" y="19">{xml_text(box.label)}</text>'
        f'<text class="note" x="12" y="34">{xml_text(box.note)}</text></g>'
    )


def xml_text(text: str) -> str:
    return escape(_IMPOSSIBLE.sub("\ufffd", text))
