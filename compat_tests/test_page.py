"""The page at `/` in a real browser: headless Chromium, driven by node through Playwright.

Skipped where there is no Chromium or no node; `scripts/test` says so. The embedded model answers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compat_tests.conftest import serving

FOLDER = Path(__file__).parent / "page"
NODE = shutil.which("node")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
KEY = "a-key-for-the-page"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.skipif(NODE is None, reason="there is no node on this machine"),
    pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="no node_modules in compat_tests/page"),
]
NEEDS_ITS_OWN_SERVER = {"a_key_is_asked_for", "an_empty_server_says_what_to_do"}
SCENARIOS = re.findall(r"^  async (\w+)\(browser\)", (FOLDER / "scenarios.mjs").read_text(), re.M)


def run(base_url: str, scenario: str) -> None:
    assert NODE is not None
    assert CHROMIUM is not None
    url = base_url.removesuffix("v1")
    command = [NODE, str(FOLDER / "scenarios.mjs"), CHROMIUM, url.rstrip("/"), scenario, KEY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all is well\n")


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in NEEDS_ITS_OWN_SERVER])
def test_the_page(base_url: str, scenario: str) -> None:
    run(base_url, scenario)


@contextmanager
def fresh(*options: str) -> Iterator[str]:
    with serving("--threads", "1", *options) as url:
        yield url


def test_an_empty_server_says_what_to_do() -> None:
    with fresh() as url:
        run(url, "an_empty_server_says_what_to_do")


def test_a_key_is_asked_for() -> None:
    with fresh("--api-key", KEY) as url:
        run(url, "a_key_is_asked_for")
