"""The pages that people start with: the examples of each run as one program, and print what the page shows.

Names of branches and trees, and times, are others each time.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/quickstart.md", "docs/tree-api.md"]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
CHANGING = re.compile(r"(?<=branch_)[0-9a-f]+|(?<=tree_)[0-9a-f]+|(?<='fork_us': )[0-9.]+")


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_python_prints_what_the_page_shows(page: str, base_url: str) -> None:
    names: dict[str, Any] = {}
    for (language, source), (below, shown) in zip(blocks(page), [*blocks(page)[1:], ("", "")], strict=True):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(source.replace("http://localhost:8000/v1", base_url), page, "exec"), names)
            if below == "json":
                assert ast.literal_eval(printed.getvalue()).keys() == json.loads(shown).keys()
            else:
                assert below == "text", f"this shows no output:\n{source}"
                assert CHANGING.sub("-", printed.getvalue()) == CHANGING.sub("-", shown)
    if "engine" in names:
        names["engine"].close()


def test_curl_as_the_quickstart_has_it(base_url: str) -> None:
    [command] = [source for language, source in blocks("docs/quickstart.md") if source.startswith("curl")]
    command = command.replace("localhost:8000/v1", base_url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"].startswith("Answer: ")


async def test_searches_of_the_page_run_in_an_event_loop() -> None:
    """All but the last snippet, which is a pattern with blanks; what is printed first is shown."""
    page = blocks("docs/search.md")
    snippets = [source for language, source in page if language == "python"][:-1]
    [shown] = [text for language, text in page if language == "text"]
    names: dict[str, Any] = {}
    printed = []
    for source in snippets:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            code = compile(source, "docs/search.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            await eval(code, names)
        printed.append(text.getvalue())
    names["engine"].close()
    assert printed[0] == shown
    assert printed[1].splitlines()[-1].startswith("finished ")
    assert printed[2].count("left: ") == 2
