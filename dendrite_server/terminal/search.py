"""`dendrite search PROMPT`: a search drawn as it grows, on a running server or in this process."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from dendrite_server.terminal.client import Client, Refused, Unreachable, add_server_options
from dendrite_server.terminal.draw import clean, thought_tree

METHODS = ("tot", "mcts", "beam", "best_of_n", "self_consistency")
GAME24_WIDTH = {"width": 3, "branching": 8}
Body = dict[str, Any]
Events = Iterator[tuple[str, Body]]


def main(argv: Sequence[str]) -> int:
    """0 when the search has ended, with `--goal` or `--game24` only if it is solved; else 1."""
    asked = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        body = request_body(asked)
        events = _here(asked.local, body) if asked.local is not None else _there(asked, body)
        shown = Shown(body)
        shown.follow(events, console)
    except (Unreachable, Refused, ValueError) as error:
        print(f"dendrite search: {error}", file=sys.stderr)
        return 1
    return 0 if shown.is_solved or "goal" not in body else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dendrite search",
        description="Search the tree of what could be said, and watch it.",
        epilog="What there is no option for goes into --body, as POST /v1/search takes it. Try: dendrite "
        'search --local --game24 "4 5 6 10"',
    )
    add = parser.add_argument
    add("prompt", nargs="?", help="what is asked, as a user's turn")
    add("--game24", metavar="NUMBERS", help="a Game of 24 for the embedded model, instead of a prompt")
    add("--local", nargs="?", const="", metavar="MODEL", help="in this process (default: the embedded model)")
    add_server_options(parser)
    add("--method", choices=METHODS, default="tot", help="how to search (default: %(default)s)")
    add("--width", type=int, metavar="N", help="kept per level (tot, beam)")
    add("--branching", type=int, metavar="N", help="children of an expansion (tot, mcts)")
    add("-n", type=int, metavar="N", help="answers (best_of_n, self_consistency)")
    add("--max-tokens", type=int, metavar="N", help="of a thought")
    add("--temperature", type=float, metavar="T", help="of thoughts")
    add("--stop", help="what ends a thought; \\n is a line's end")
    add("--goal", metavar="REGEX", help="what solves the task")
    add("--tokens", type=int, metavar="N", help="budget: tokens generated")
    add("--nodes", type=int, metavar="N", help="budget: branches made")
    add("--depth", type=int, metavar="N", help="budget: thoughts one after the other")
    add("--seed", type=int, default=1, help="of all draws (default: %(default)s)")
    add("--body", type=_json, default={}, metavar="JSON", help="further fields of the request")
    return parser


def _json(text: str) -> Body:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise argparse.ArgumentTypeError("a JSON object is wanted")
    return body


def request_body(asked: argparse.Namespace) -> Body:
    """The body of `POST /v1/search`. Raises `ValueError` without a prompt."""
    if (asked.prompt is None) == (asked.game24 is None):
        raise ValueError("give a prompt, or --game24 with four numbers")
    body = _plain(asked.prompt) if asked.game24 is None else _game24(asked.game24)
    method: Body = {"type": asked.method} | (GAME24_WIDTH if asked.game24 and asked.method == "tot" else {})
    body["method"] = method | _given(width=asked.width, branching=asked.branching, n=asked.n)
    stop = None if asked.stop is None else asked.stop.replace("\\n", "\n")
    thoughts = _given(max_tokens=asked.max_tokens, temperature=asked.temperature, stop=stop)
    if asked.method == "beam":
        body.pop("generator"), body.pop("evaluator", None)
        body["method"] |= _given(max_tokens=asked.max_tokens, stop=stop)
    else:
        body["generator"] |= thoughts
    if asked.goal is not None:
        body["goal"] = {"type": "regex", "pattern": asked.goal}
    body["budget"] |= _given(tokens=asked.tokens, nodes=asked.nodes, depth=asked.depth)
    return {**body, "seed": asked.seed, **asked.body}


def _given(**fields: Any) -> Body:
    return {name: value for name, value in fields.items() if value is not None}


def _plain(prompt: str) -> Body:
    return {
        "messages": [{"role": "user", "content": prompt}],
        "generator": {"type": "sample"},
        "budget": {"nodes": 64, "depth": 8},
    }


def _game24(numbers: str) -> Body:
    """As in docs/search.md: the model goes on line by line and judges what is left."""
    return {
        "messages": [{"role": "user", "content": "Explore 24: " + " ".join(re.findall(r"\d+", numbers))}],
        "generator": {"type": "sample", "max_tokens": 32, "stop": "\n"},
        "evaluator": {
            "type": "judge",
            "prompt": "Judge for 24: {left}",
            "pattern": "(?:left|24): (?P<left>[0-9 /]+)",
            "labels": {"sure": 1, "likely": 0.7, "impossible": 0},
            "max_tokens": 4,
            "temperature": 0,
        },
        "goal": {"type": "regex", "pattern": "Answer: .* = 24"},
        "budget": {"tokens": 3000, "depth": 5},
    }


def _there(asked: argparse.Namespace, body: Body) -> Events:
    client = Client(asked.url, asked.api_key)
    for kind, data, _ in client.events("/search", {**body, "stream": True}):
        if "error" in data and kind == "message":
            raise Refused(500, str(data["error"]["message"]))
        yield kind, data


def _here(model: str, body: Body) -> Events:
    # Imported here, because a search on a server needs neither torch nor a model.
    from dendrite_server.terminal.local import search_here

    return search_here(model, body)


class Shown:
    """A search by its events: the tree of thoughts, the tokens it took, and how it ended."""

    def __init__(self, body: Body) -> None:
        self._prompt = str(body.get("prompt") or body["messages"][-1]["content"])
        self._method = body["method"]["type"]
        self._budget = body.get("budget", {})
        self._views: dict[int, Body] = {}
        self._tokens: Body = {}
        self._seconds = 0.0
        self._result: Body | None = None

    @property
    def is_solved(self) -> bool:
        return self._result is not None and bool(self._result["solved"])

    def follow(self, events: Events, console: Console) -> None:
        """To the end. On a terminal the tree is drawn while it grows; what it came to stays."""
        try:
            with Live(get_renderable=self.drawn, console=console, refresh_per_second=10, transient=True):
                for kind, data in events:
                    self.hear(kind, data)
        finally:
            console.print(self.drawn())

    def hear(self, kind: str, data: Body) -> None:
        if kind == "completed":
            self._result = data["result"]
        elif "branches" in data:
            self._views = {**self._views, **{view["id"]: view for view in data["branches"]}}
            self._tokens, self._seconds = data["tokens"], data["seconds"]

    def drawn(self) -> RenderableType:
        parts: list[RenderableType] = [thought_tree(self._prompt, self._views.values()), self._counts()]
        if self._result is not None:
            parts.append(self._answer(self._result))
        return Group(*parts)

    def _counts(self) -> Text:
        tokens = {name: self._tokens.get(name, 0) for name in ("computed", "generated", "cached")}
        counts = " · ".join(f"{value:,} {name}" for name, value in tokens.items())
        line = f"{self._method} · {len(self._views)} thoughts · {self._seconds:.2f} s · tokens: {counts}"
        limit = self._budget.get("tokens")
        if limit is not None:
            line = f"{_bar(tokens['generated'] / limit)} {tokens['generated']:,} of {limit:,} tokens\n{line}"
        return Text(line, style="dim")

    def _answer(self, result: Body) -> Text:
        colour = "green" if result["solved"] else "yellow"
        head = Text("solved" if result["solved"] else f"ended: {result['reason']}", style=f"bold {colour}")
        lines = [clean(line) for line in result["text"].strip().splitlines()]
        return head.append("\n" + "\n".join(lines), style=colour if result["solved"] else "")


def _bar(part: float, width: int = 16) -> str:
    filled = round(width * min(1.0, part))
    return "━" * filled + "─" * (width - filled)
