"""The examples in docstrings run. They stand on the public names and on `engine`, the embedded model's."""

from __future__ import annotations

import asyncio
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dendrite_core
from dendrite_core import Engine, search

ROOT = Path(__file__).parent.parent
ENGINE = ("Completion", "Engine", "GrammarSpec", "RequestError", "SamplingParams")
SEARCH = ("Branch", "Budget", "Judge", "Propose", "RegexCheck", "Sample", "Search", "Template", "Tree")
SHOWN = {**dict.fromkeys(ENGINE, dendrite_core), **dict.fromkeys(SEARCH, search)}


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    with Engine.from_pretrained(num_pages=1024, threads=1) as engine:
        public = {
            name: getattr(module, name) for module in (dendrite_core, search) for name in module.__all__
        }
        yield {**public, "asyncio": asyncio, "engine": engine}


def examples() -> Iterator[Any]:
    """Of every module that has some; the others are not imported, for some of them need a GPU's packages."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for package in ("dendrite_core", "dendrite_server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                found = finder.find(importlib.import_module(name))
                yield from (pytest.param(one, id=one.name) for one in found if one.examples)


@pytest.mark.parametrize("example", examples())
def test_docstring_example(example: doctest.DocTest, names: dict[str, Any]) -> None:
    example.globs = example.globs | names
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_what_people_start_with_has_an_example(name: str) -> None:
    assert ">>>" in (getattr(SHOWN[name], name).__doc__ or "")
