"""The `dendrite` command: `serve` (also without a word), `tree` and `search`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType


def end_loading(number: int, frame: FrameType | None) -> None:
    """For SIGTERM until the server listens: the first process of a container hears no signal by default."""
    raise SystemExit(128 + number)


HELP = """usage: dendrite COMMAND ...

  serve    serve a model over the OpenAI API; also what is done without a command
  tree     draw a server's trees in the terminal, while they grow
  search   search the tree of what could be said, on a server or in this process

`dendrite COMMAND --help` lists the options of one, `dendrite --version` says which this is.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of a command; 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Imported here, because loading torch takes seconds that looking at a tree need not cost.
    try:
        match words[:1]:
            case ["tree"]:
                from dendrite_server.terminal.tree import main as command
            case ["search"]:
                from dendrite_server.terminal.search import main as command
            case ["-h" | "--help"]:
                print(HELP, end="")
                return 0
            case _:
                signal.signal(signal.SIGTERM, end_loading)
                from dendrite_server.__main__ import main as serve

                return serve(words)
        return command(words[1:])
    except KeyboardInterrupt:
        return 130
