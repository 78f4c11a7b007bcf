"""The demo: what a fork costs, a Game of 24 searched live in the terminal, and the same without a tree.

`--record` writes what was shown, at the pace it was shown, as one animated SVG that needs no script.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from xml.sax.saxutils import escape

from benchmarks.fork import measure_fork
from benchmarks.game24 import EMBEDDED, Puzzle, chosen_puzzles, explore, goal, judge, show, thought
from dendrite_core import Engine, SamplingParams
from dendrite_core.search import (
    Backend,
    Budget,
    EngineBackend,
    Event,
    ResendingEngine,
    Result,
    Search,
    TreeOfThoughts,
)

PREFIXES = (1_000, 8_000, 32_000, 128_000)
BUDGET = Budget(tokens=1500, depth=5)
COLOURS = {"plain": "", "dim": "2", "bold": "1", "good": "32", "fair": "33", "bad": "31"}


@dataclass(frozen=True)
class Line:
    """A line as it was shown: seconds since the start, words, colour."""

    at: float
    text: str
    colour: str


class Screen:
    """Prints lines and remembers when."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._begin = perf_counter()
        self._coloured = sys.stdout.isatty()

    def say(self, text: str = "", colour: str = "plain") -> None:
        self.lines.append(Line(perf_counter() - self._begin, text, colour))
        code = COLOURS[colour] if self._coloured else ""
        print(f"\x1b[{code}m{text}\x1b[0m" if code else text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--puzzle", help='four numbers, as "4 5 6 10" (default: one the model never saw)')
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write an animated SVG")
    args = parser.parse_args()
    puzzle = _puzzle(args.puzzle)
    screen = Screen()
    show_forks(screen)
    with Engine.from_pretrained(str(EMBEDDED)) as engine:
        asyncio.run(show_search(screen, engine, puzzle, args.seed))
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(animation(screen.lines))


def _puzzle(text: str | None) -> Puzzle:
    if text is None:
        return chosen_puzzles(None)[137]
    numbers = [int(word) for word in text.replace(",", " ").split()]
    if len(numbers) != 4:
        raise SystemExit("a puzzle is four whole numbers")
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def show_forks(screen: Screen) -> None:
    """A fork takes the same time whatever the length of the past."""
    screen.say("$ scripts/demo", "dim")
    screen.say()
    screen.say("Forking a branch (median of 2,000; nothing is copied):", "bold")
    for length in PREFIXES:
        found = measure_fork(length, 1, 2_000)
        screen.say(f"  {length:>7,} tokens of past   {found['fork_time_us']:6.2f} us")
    screen.say()


async def show_search(screen: Screen, engine: Engine, puzzle: Puzzle, seed: int) -> None:
    screen.say(f"Game of 24 with {show(puzzle)}: thoughts, and the model's own judgement of each", "bold")
    ways: dict[str, Backend] = {
        "on the tree": EngineBackend(engine),
        "re-prefilling every request": ResendingEngine(engine, prefix_cache=False),
    }
    # The first step of an engine builds and loads what it needs; no search is to pay for that.
    await engine.agenerate("Hello", SamplingParams(max_tokens=4, seed=1))
    results: dict[str, Result] = {}
    for name, backend in ways.items():
        watching = not results
        method = TreeOfThoughts(
            generator=thought(), evaluator=judge(), goal=goal(puzzle), width=3, branching=8
        )
        search = Search(backend, explore(puzzle), method, budget=BUDGET, seed=seed)
        async for event in search:
            if watching:
                _tell(screen, event)
        assert search.result is not None
        results[name] = search.result
    _compare(screen, results)


def _tell(screen: Screen, event: Event) -> None:
    if event.kind in ("scored", "solved"):
        for view in event.branches:
            score = view.score or 0.0
            colour = "good" if score > 0.9 else "fair" if score > 0 else "bad"
            word = "24!" if view.status == "solved" else {"good": "sure", "fair": "likely"}.get(colour, "no")
            screen.say(f"  {'  ' * view.depth}{view.text.strip():<34} {word}", colour)
    elif event.kind == "pruned":
        repeats = all(view.score is None for view in event.branches)
        what = f"dropped {len(event.branches)} repeats" if repeats else f"pruned {len(event.branches)}"
        screen.say(f"  {what}; their pages are free again", "dim")
    elif event.kind == "finished" and event.branches:
        solved = event.branches[0].status == "solved"
        screen.say("  solved" if solved else f"  not solved: {event.reason}", "good" if solved else "bad")


def _compare(screen: Screen, results: dict[str, Result]) -> None:
    screen.say()
    screen.say("The same search, the same thoughts, the same seed:", "bold")
    for name, result in results.items():
        count = result.count
        screen.say(
            f"  {name:<28} {count.computed:>6,} tokens computed ({count.prompt - count.cached:,} of prompts)"
            f"  {result.seconds:5.2f} s"
        )
    first, second = results.values()
    same = [view.text for view in first.tree] == [view.text for view in second.tree]
    screen.say(f"  {'same thoughts' if same else 'rounding has turned a draw: the thoughts differ'}", "dim")
    screen.say()
    screen.say(first.text.strip(), "good" if first.solved else "plain")


# The recording.

_FILL = {
    "plain": "#c9d1d9",
    "dim": "#7d8590",
    "bold": "#ffffff",
    "good": "#3fb950",
    "fair": "#d29922",
    "bad": "#f85149",
}
_LINE, _MARGIN, _WIDTH, _SHOWN = 18, 16, 860, 32


def animation(lines: list[Line]) -> str:
    """Lines that appear when they did, scrolling up once the window is full; plays for ever."""
    rows = [Line(line.at, text, line.colour) for line in lines for text in line.text.split("\n")]
    total = rows[-1].at + 4
    height = 2 * _MARGIN + _SHOWN * _LINE
    body = "\n".join(_row(number, row, total) for number, row in enumerate(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-size="13" '
        'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace">\n'
        "<title>Dendrite: forks, and a Game of 24 searched on the tree</title>\n"
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#0d1117"/>\n'
        f'<clipPath id="w"><rect y="{_MARGIN // 2}" width="{_WIDTH}" height="{height - _MARGIN}"/>'
        "</clipPath>\n"
        f'<g clip-path="url(#w)"><g xml:space="preserve">{_scroll(rows, total)}\n{body}\n</g></g></svg>\n'
    )


def _row(number: int, row: Line, total: float) -> str:
    y = _MARGIN + (number + 1) * _LINE - 5
    text = f'<text x="{_MARGIN}" y="{y}" fill="{_FILL[row.colour]}" opacity="0">{escape(row.text)}'
    shown = f'keyTimes="0;{min(row.at / total, 0.999):.4f}" values="0;1" calcMode="discrete"'
    return (
        f'{text}<animate attributeName="opacity" dur="{total:.2f}s" repeatCount="indefinite" {shown}/></text>'
    )


def _scroll(rows: list[Line], total: float) -> str:
    """Moves everything up a line for each one beyond the window's last."""
    over = [(row.at / total, number - _SHOWN + 1) for number, row in enumerate(rows) if number >= _SHOWN]
    if not over:
        return ""
    times = ";".join(["0", *(f"{min(at, 0.999):.4f}" for at, _ in over)])
    moves = ";".join(["0 0", *(f"0 {-lines * _LINE}" for _, lines in over)])
    return (
        f'<animateTransform attributeName="transform" type="translate" dur="{total:.2f}s" '
        f'repeatCount="indefinite" calcMode="discrete" keyTimes="{times}" values="{moves}"/>'
    )


if __name__ == "__main__":
    main()
