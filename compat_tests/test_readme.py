"""The pages that people start with: every example of README.md and docs/quickstart.md runs as one program,
and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/quickstart.md"]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


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
            assert below == "text", f"this shows no output:\n{source}"
            assert printed.getvalue() == shown
    if "engine" in names:
        names["engine"].close()


def test_curl_as_the_quickstart_has_it(base_url: str) -> None:
    [command] = [source for language, source in blocks("docs/quickstart.md") if source.startswith("curl")]
    command = command.replace("localhost:8000/v1", base_url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"].startswith("Answer: ")
