"""`dendrite tree [ID]`: a tree of a running server, drawn as it grows."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dendrite_server.terminal.client import Client, Refused, Unreachable, add_server_options
from dendrite_server.terminal.draw import branch_tree, clean

# Seconds between tries to reach a server that is gone.
RETRY = 1.0


def main(argv: Sequence[str]) -> int:
    """0 when the tree has been shown, 1 when it cannot be."""
    parser = argparse.ArgumentParser("dendrite tree", description="Show a tree of a server as it grows.")
    parser.add_argument("tree", nargs="?", metavar="ID", help="which one (default: what changed last)")
    parser.add_argument("--list", action="store_true", help="list the trees there are")
    parser.add_argument("--once", action="store_true", help="as it is now (default without a terminal)")
    add_server_options(parser)
    asked = parser.parse_args(argv)
    client, console = Client(asked.url, asked.api_key), Console(highlight=False)
    try:
        if asked.list:
            console.print(_listed(client))
            return 0
        name = asked.tree or _newest(client)
        if asked.once or not console.is_terminal:
            console.print(branch_tree(client.get(f"/trees/{quote(name)}")["branches"]))
        else:
            Watched(client, name).show(console)
    except (Unreachable, Refused) as error:
        print(f"dendrite tree: {error}", file=sys.stderr)
        return 1
    return 0


def _newest(client: Client) -> str:
    trees = client.get("/trees?limit=1")["data"]
    if not trees:
        raise Refused(404, "the server has no trees yet; send it a request, or: dendrite search")
    return str(trees[0]["id"])


def _listed(client: Client) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("tree", "branches", "running", "begins with"):
        table.add_column(column, justify="right" if column in ("branches", "running") else "left")
    for one in client.get("/trees?limit=100")["data"]:
        title = Text(clean(one["title"]))
        table.add_row(one["id"], str(one["branches"]), str(one["running"] or ""), title)
    return table


class Watched:
    """One tree by its events, with the id of the last one for after a break."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._branches: dict[str, dict[str, Any]] = {}
        self._last_id: str | None = None
        self._state = "live"

    def show(self, console: Console) -> None:
        """Until Ctrl-C, or until the tree is gone; the tree as it was last stays on the screen."""
        try:
            with Live(get_renderable=self.drawn, console=console, refresh_per_second=10, transient=True):
                self._follow()
        except KeyboardInterrupt:
            self._state = "stopped"
        finally:
            console.print(self.drawn())

    def _follow(self) -> None:
        while self._state != "gone":
            try:
                path = f"/trees/{quote(self._name)}/events"
                for kind, data, id in self._client.events(path, last_id=self._last_id):
                    self._state, self._last_id = "live", id or self._last_id
                    self.hear(kind, data)
            except Unreachable:
                if self._last_id is None:
                    raise
                self._state = "waiting for the server"
            except Refused as error:
                if error.status != 404 or self._last_id is None:
                    raise
                self._state = "gone"
            else:
                self._state = "live" if self._branches else "gone"
            if self._state != "gone":
                time.sleep(RETRY)

    def hear(self, kind: str, data: dict[str, Any]) -> None:
        """Take an event in, as docs/tree-api.md says."""
        known = dict(self._branches)
        if kind == "snapshot":
            known = {one["id"]: one for one in data["branches"]}
        elif kind == "released":
            for name in data["ids"]:
                known.pop(name, None)
        else:
            now = {**known.get(data["id"], {"text": ""}), **data}
            now["text"] += now.pop("delta", "")
            known[data["id"]] = now
        # Whole, because the screen is drawn by another thread.
        self._branches = known

    def drawn(self) -> RenderableType:
        branches = list(self._branches.values())
        running = sum(one["status"] == "running" for one in branches)
        facts = f"{len(branches)} branches · {running} running · {self._state}"
        return Group(branch_tree(branches), Text(f"{self._name} · {facts}", style="dim"))
