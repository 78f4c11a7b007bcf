"""The README's examples run, and print what it says they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(source: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "README.md", "exec"), {})
    return printed.getvalue()


SOURCES = [text for language, text in BLOCKS if language == "python"]
SHOWN = [text for language, text in BLOCKS if language == "text"]


def test_the_fork_example_prints_what_the_readme_shows(base_url: str) -> None:
    assert run(SOURCES[0].replace("http://localhost:8000/v1", base_url)) == SHOWN[0]


def test_the_library_example_prints_what_the_readme_shows() -> None:
    source = SOURCES[1].replace("dendrite_core/embedded", str(ROOT / "dendrite_core" / "embedded"))
    assert run(source + "\nengine.close()") == SHOWN[1]
