"""What README.md and the files of the community say is true of this tree: figures, chart and links."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from scripts.readme import CHART, README, ROOT, chart, readme

PAGES = [README, *sorted((ROOT / ".github").glob("*.md"))]
INSTALLED_BY_SCRIPTS = ("bench", "compat", "dev", "docs")
LINK = re.compile(r'(?:\[[^\]]*\]\(|src="|srcset=")(?!https?:)([^)"#\s]+)')


def test_the_readmes_figures_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == readme(text), "run: python -m scripts.readme"


def test_the_readmes_chart_is_drawn_from_the_results() -> None:
    assert CHART.read_text(encoding="utf-8") == chart(), "run: python -m scripts.readme"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    """Pages under docs/ are checked when the site is built."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_reference_of_the_readme_is_defined_and_used() -> None:
    text = README.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    defined = set(re.findall(r"^\[([^\]]+)\]: ", prose, re.MULTILINE))
    used = set(re.findall(r"\]\[([^\]]+)\]", prose)) | set(re.findall(r"\| \[([^\]]+)\] ", prose))
    assert used == defined


def test_the_sites_menu_has_every_page_once() -> None:
    menu = re.findall(r": ([\w/-]+\.md)$", (ROOT / "scripts/site/mkdocs.yml").read_text(), re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(menu) == sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))


def test_no_page_has_a_stranger_installed() -> None:
    """An index has another project under our name, so ours is installed from a file or a folder."""
    pages = [README, *(ROOT / "docs").rglob("*.md"), *(ROOT / "dendrite_core").rglob("*.py")]
    wheel = re.compile(r"(dist/|^)dendrite-[\w.*-]+\.whl(\[\w+\])?$")
    for page in pages:
        for line in re.findall(r"pip install ([^`#\n]+)", page.read_text(encoding="utf-8")):
            named = [word.strip("'\"") for word in line.split() if "dendrite" in word]
            assert all(wheel.search(word) for word in named), f"{page.name}: pip install {line}"


def test_every_package_is_pinned_once_and_every_dependency_is_pinned() -> None:
    """A package pinned twice makes every fresh installation fail."""
    pinned = [name_of(line) for line in (ROOT / "constraints.txt").read_text().split()]
    assert len(pinned) == len(set(pinned)), sorted(name for name in pinned if pinned.count(name) > 1)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(extras[name] for name in INSTALLED_BY_SCRIPTS)]
    assert {name_of(requirement) for group in groups for requirement in group} <= {"dendrite", *pinned}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=;!~ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")
