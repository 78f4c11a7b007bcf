"""Clients that want an openai package below 3: litellm, instructor and LlamaIndex, each a script of its own.

They cannot share an environment with clients that want 3; theirs is .venv-older-sdk, made by
`scripts/test --clients`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from compat_tests.conftest import Abilities

pytestmark = pytest.mark.clients

FOLDER = Path(__file__).parent / "older_sdk"
PYTHON = FOLDER.parent.parent / ".venv-older-sdk" / "bin" / "python"


def run(script: str, *arguments: str) -> str:
    assert PYTHON.exists(), "there is no .venv-older-sdk; scripts/test --clients makes it"
    # Nothing is asked of the network: prices and token counts of other models are not needed here.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore"}
    command = [str(PYTHON), str(FOLDER / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_litellm(base_url: str) -> None:
    run("litellm_chats.py", base_url)


def test_llama_index(base_url: str) -> None:
    run("llama_index_chats.py", base_url)


def test_instructor(base_url: str, abilities: Abilities) -> None:
    able = [name for name in ("formats", "tools") if getattr(abilities, name)]
    if not able:
        pytest.skip("this server neither constrains its output nor calls tools")
    told = run("instructor_objects.py", base_url, *able)
    assert told.count("verdict=") == len(able) + ("tools" in able)
