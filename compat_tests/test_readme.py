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


def test_the_fork_example_prints_what_the_readme_shows(base_url: str) -> None:
    sources = [text for language, text in BLOCKS if language == "python"]
    shown = next(text for language, text in BLOCKS if language == "text")
    assert run(sources[0].replace("http://localhost:8000/v1", base_url)) == shown


def test_the_library_example_runs() -> None:
    source = next(text for language, text in BLOCKS if "from dendrite_core" in text)
    source = source.replace("dendrite_core/embedded", str(ROOT / "dendrite_core" / "embedded"))
    assert "8" in run(source + "\nengine.close()")
