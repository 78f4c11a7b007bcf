"""Writes docs/examples.md: every program under docs/examples/ with what it printed.

    python -m scripts.examples http://127.0.0.1:8000/v1     (a server of the embedded model)

The client tests run each of them and compare. LlamaIndex wants an older SDK and runs in .venv-older-sdk.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE, FOLDER = ROOT / "docs" / "examples.md", ROOT / "docs" / "examples"
TITLES = {
    "tree_of_thought": "Tree of Thoughts, by hand",
    "mcts": "Monte Carlo tree search",
    "self_consistency": "Self-consistency",
    "json_output": "JSON by a schema",
    "tools": "Tools",
    "responses_branching": "The Responses API",
    "langchain_fork": "LangChain",
    "llamaindex_fork": "LlamaIndex",
}
NEEDS_CLIENTS = {"langchain_fork", "llamaindex_fork"}
_OLDER_SDK = {"llamaindex_fork": ROOT / ".venv-older-sdk" / "bin" / "python"}

_INTRO = """# Examples

Each is a program of its own under `docs/examples/`, given the server's URL or nothing:

```sh
scripts/serve                                     # in one terminal
.venv/bin/python docs/examples/tree_of_thought.py   # in another
```

The first six need nothing but the `openai` package (the second also `dendrite` itself):
`.venv/bin/pip install openai`. The last two need `langchain-openai` and `llama-index-llms-openai-like`,
which want different releases of it: give each an environment of its own. What is shown as output is what
the embedded model answers; this page is written by `python -m scripts.examples`, and the tests run every
program and compare.
"""


def run(name: str, base_url: str) -> str:
    """What an example prints, asked of a server; raises `RuntimeError` when it fails."""
    command = [str(_OLDER_SDK.get(name, sys.executable)), str(FOLDER / f"{name}.py"), base_url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def page(outputs: Mapping[str, str]) -> str:
    """The page, of what each example printed."""
    parts = [_INTRO]
    for name, title in TITLES.items():
        source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        parts.append(f"## {title}\n\n[`{name}.py`](examples/{name}.py)\n")
        parts.append(f"```python\n{source}```\n\n```text\n{outputs[name]}```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page({name: run(name, sys.argv[1]) for name in TITLES}), encoding="utf-8")
