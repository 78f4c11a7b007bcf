"""A drawing as text for programs that lay graphs out: Mermaid and Graphviz."""

from __future__ import annotations

import re

from dendrite_server.trees.drawing import Box, Drawing

_COLOURS = {"good": "#1a7f4b", "fair": "#9a6700", "poor": "#b3261e", "plain": "#6b7280"}
# Mermaid reads Markdown, HTML and its own brackets in labels; what is not plainly text goes by number.
_NOT_PLAIN = re.compile(r"[^\w .,:=+*/()…-]")


def as_mermaid(drawing: Drawing) -> str:
    lines = ["flowchart LR"]
    for box in drawing.boxes:
        ending = "running" if box.running else box.tone
        lines.append(f'  b{box.at}["{mermaid_text(box.label)}<br/>{mermaid_text(box.note)}"]:::{ending}')
    lines += [f"  b{parent.at} --> b{child.at}" for parent, child in drawing.edges]
    lines += [f"  classDef {tone} stroke:{colour}" for tone, colour in _COLOURS.items()]
    lines.append("  classDef running stroke:#2563eb,stroke-dasharray:4 3")
    return "\n".join(lines) + "\n"


def mermaid_text(text: str) -> str:
    return _NOT_PLAIN.sub(lambda found: f"#{ord(found[0])};", text)


def as_dot(drawing: Drawing) -> str:
    head = 'digraph tree {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname="sans-serif"];'
    lines = [head, *map(_dot_box, drawing.boxes)]
    lines += [f"  b{parent.at} -> b{child.at};" for parent, child in drawing.edges]
    return "\n".join([*lines, "}\n"])


def _dot_box(box: Box) -> str:
    style = ', style="rounded,dashed"' if box.running else ""
    label = f"{dot_text(box.label)}\\n{dot_text(box.note)}"
    return f'  b{box.at} [label="{label}", color="{_COLOURS[box.tone]}"{style}];'


def dot_text(text: str) -> str:
    """In double quotes, where only the quote and the backslash mean anything."""
    shown = re.sub(r"[\x00-\x1f\x7f]", "\ufffd", text)
    return shown.replace("\\", "\\\\").replace('"', '\\"')
