"""docs/compatibility.md is what the server's tables say, and every test it names exists."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dendrite_server.protocol.request import Limits, parse_completion
from scripts.compatibility import PAGE, SURFACES, effect_of, evidence, page
from tests.server.test_request import CHAT_EXTENSIONS, COMPLETION_HONOURED, NEEDS, show

LIMITS = Limits(vocab_size=256, max_branches=8)
HONOURED = {name: value for name, value in CHAT_EXTENSIONS.items() if name in SURFACES[1].taken}
HONOURED |= {"response_format": ({"type": "json_object"}, "params.grammar.kind", "json_schema")}
HONOURED |= COMPLETION_HONOURED | {"parent_offset": (2, "parent_offset", 2)}


def test_the_page_is_what_the_tables_say() -> None:
    assert PAGE.read_text() == page(), "run: python -m scripts.compatibility"


def test_every_honoured_field_of_completions_is_tried() -> None:
    surface = SURFACES[1]
    assert {name for name in surface.taken if effect_of(surface, name) == "honoured"} == HONOURED.keys()


@pytest.mark.parametrize("name", sorted(HONOURED))
def test_completion_field_is_honoured(name: str) -> None:
    value, path, seen = HONOURED[name]
    needs = {"parent_id": "branch_1"} if name == "parent_offset" else NEEDS.get(name, {})
    assert show(parse_completion({"prompt": "x", name: value, **needs}, LIMITS), path) == seen


def test_every_test_it_names_exists() -> None:
    named = {
        evidence(surface, name)
        for surface in SURFACES
        for name in surface.openai | surface.vllm | surface.taken.keys()
    }
    files = sorted({name.partition("::")[0] for name in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    exist = {*listed, *(line.partition("[")[0] for line in listed)}
    assert not named - exist
