"""Clients in JavaScript: openai-node and Vercel's AI SDK, each a script run by node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compat_tests.conftest import Abilities

FOLDER = Path(__file__).parent / "js"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(NODE is None, reason="there is no node on this machine"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules").is_dir(),
        reason="no node_modules: `npm ci --prefix compat_tests/js`, or scripts/test --clients, makes them",
    ),
]


def run(script: str, *arguments: str) -> None:
    assert NODE is not None
    command = [NODE, str(FOLDER / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all is well\n")


@pytest.mark.parametrize("script", ["openai_node.mjs", "ai_sdk.mjs"])
def test_a_client_for_node(base_url: str, abilities: Abilities, script: str) -> None:
    run(script, base_url, *(name for name in ("formats", "tools") if getattr(abilities, name)))
