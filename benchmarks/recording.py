"""A terminal that remembers: what it showed and when, as one animated SVG that needs no script.

The picture plays what was really shown, except that waits are cut to `LONGEST_WAIT` seconds. A row of the
window is a few pieces of text, each visible from when it was written to when it was written over.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from time import perf_counter
from xml.sax.saxutils import escape

from rich.color import Color, ColorType
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.style import Style
from rich.terminal_theme import TerminalTheme

COLUMNS, ROWS = 90, 44
LONGEST_WAIT, LAST_WAIT = 1.2, 6.0

_CELL_WIDTH, _LINE_HEIGHT, _FONT_SIZE = 8.4, 18, 14
_MARGIN, _BAR = 18, 34
_BACKGROUND, _FOREGROUND = "#0d1117", "#c9d1d9"
_DIM = 0.55


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)


_THEME = TerminalTheme(
    _rgb(_BACKGROUND[1:]),
    _rgb(_FOREGROUND[1:]),
    [_rgb(c) for c in ("484f58", "f85149", "3fb950", "d29922", "58a6ff", "bc8cff", "39c5cf", "b1bac4")],
    [_rgb(c) for c in ("6e7681", "ff7b72", "56d364", "e3b341", "79c0ff", "d2a8ff", "56d4dd", "ffffff")],
)

Row = tuple[tuple[str, Style], ...]
"""One line of the window: texts and their styles."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the window showed from `at` seconds on."""

    at: float
    rows: tuple[Row, ...]


class Stage:
    """Shows lines that stay, and below them one thing that may change. Use as a context manager."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.frames: list[Frame] = []
        self._paper = Console(width=COLUMNS, force_terminal=True, color_system="truecolor", highlight=False)
        self._begin = perf_counter()
        self._kept: list[RenderableType] = []
        self._live: Live | None = None

    @property
    def is_watched(self) -> bool:
        """Whether anybody sees things as they happen."""
        return sys.stdout.isatty()

    def say(self, *lines: RenderableType) -> None:
        """Print lines that stay."""
        for line in lines or ("",):
            self.console.print(line)
            self._kept.append(line)
        self._remember()

    def change(self, thing: RenderableType) -> None:
        """Show a thing in place of the one shown so before."""
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        if self.is_watched:
            self._live.update(thing, refresh=True)
        self._remember(thing)

    def settle(self, thing: RenderableType) -> None:
        """The changing thing has found its last form, and stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self.say(thing)

    def _remember(self, *below: RenderableType) -> None:
        lines = self._paper.render_lines(Group(*self._kept, *below), pad=False)
        rows = tuple(tuple((s.text, s.style or Style()) for s in line if s.text) for line in lines)
        self.frames.append(Frame(perf_counter() - self._begin, rows[-ROWS:]))

    def animation(self, title: str) -> str:
        """All that was shown, as SVG."""
        return animation(self.frames, title)


def animation(frames: Sequence[Frame], title: str) -> str:
    """Frames as an SVG that plays for ever."""
    times = _paced([frame.at for frame in frames])
    total = times[-1] + LAST_WAIT
    used = max(len(frame.rows) for frame in frames)
    width = round(COLUMNS * _CELL_WIDTH) + 2 * _MARGIN
    height = _BAR + used * _LINE_HEIGHT + _MARGIN
    shown: list[str] = []
    for number in range(used):
        contents = [frame.rows[number] if number < len(frame.rows) else () for frame in frames]
        shown += _row(number, contents, times, total)
    dots = "".join(
        f'<circle cx="{_MARGIN + 4 + 20 * at}" cy="17" r="6" fill="{fill}"/>'
        for at, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="{_FONT_SIZE}" '
        "font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\">\n"
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{width}" height="{height}" rx="10" fill="{_BACKGROUND}"/>{dots}\n'
        f'<text x="{width // 2}" y="22" fill="#7d8590" text-anchor="middle">{escape(title)}</text>\n'
        + "\n".join(shown)
        + "\n</svg>\n"
    )


def _paced(times: Sequence[float]) -> list[float]:
    """When each frame is shown: as it was, but for long waits."""
    paced = [0.0]
    for before, now in pairwise(times):
        paced.append(paced[-1] + min(now - before, LONGEST_WAIT))
    return paced


def _row(number: int, contents: Sequence[Row], times: Sequence[float], total: float) -> list[str]:
    """The texts that one line of the window shows in turn."""
    y = _BAR + (number + 1) * _LINE_HEIGHT - 5
    found, at = [], 0
    for content, run in groupby(contents):
        begin, at = at, at + len(list(run))
        if any(text.strip() for text, _ in content):
            end = times[at] if at < len(times) else None
            found.append(f"<g>{_pieces(content, y)}{_visible(times[begin], end, total)}</g>")
    return found


def _visible(begin: float, end: float | None, total: float) -> str:
    times, values = [0.0], ["hidden" if begin else "visible"]
    if begin:
        times, values = [0.0, begin / total], ["hidden", "visible"]
    if end is not None:
        times, values = [*times, end / total], [*values, "hidden"]
    if len(times) == 1:
        return ""
    keys = ";".join(f"{time:.4f}" for time in times)
    return (
        f'<animate attributeName="visibility" dur="{total:.2f}s" repeatCount="indefinite" '
        f'calcMode="discrete" keyTimes="{keys}" values="{";".join(values)}"/>'
    )


def _pieces(content: Row, y: int) -> str:
    pieces, column = [], 0
    for text, style in content:
        if text.strip():
            lead = len(text) - len(text.lstrip())
            bare = text.strip()
            x, width = _MARGIN + (column + lead) * _CELL_WIDTH, len(bare) * _CELL_WIDTH
            # The length is given because no two machines have the same monospaced font.
            pieces.append(
                f'<text x="{x:.1f}" y="{y}" textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"'
                f'{_look(style)} xml:space="preserve">{escape(bare)}</text>'
            )
        column += len(text)
    return "".join(pieces)


def _look(style: Style) -> str:
    colour = style.color
    plain = colour is None or colour.type is ColorType.DEFAULT
    fill = _FOREGROUND if plain else _hex(colour)
    look = f' fill="{fill}"'
    look += ' font-weight="bold"' if style.bold else ""
    look += f' opacity="{_DIM}"' if style.dim else ""
    return look + (' text-decoration="line-through"' if style.strike else "")


def _hex(colour: Color | None) -> str:
    assert colour is not None
    return colour.get_truecolor(_THEME).hex
