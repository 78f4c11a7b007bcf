"""Every program under docs/examples/ runs, and prints what docs/examples.md says it prints."""

from __future__ import annotations

import re

import pytest

from scripts.examples import FOLDER, NEEDS_CLIENTS, PAGE, TITLES, page, run

SHOWN = dict(
    zip(TITLES, re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL), strict=True)
)


def test_the_page_shows_every_program_as_it_is() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == TITLES.keys()
    assert PAGE.read_text(encoding="utf-8") == page(SHOWN), "run: python -m scripts.examples URL"


@pytest.mark.parametrize("name", sorted(TITLES.keys() - NEEDS_CLIENTS))
def test_it_prints_what_the_page_shows(name: str, base_url: str) -> None:
    assert run(name, base_url) == SHOWN[name]


@pytest.mark.clients
@pytest.mark.parametrize("name", sorted(NEEDS_CLIENTS))
def test_a_clients_example_prints_what_the_page_shows(name: str, base_url: str) -> None:
    assert run(name, base_url) == SHOWN[name]
