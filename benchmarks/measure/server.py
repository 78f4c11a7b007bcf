"""A Dendrite server in a process of its own, on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@contextmanager
def dendrite_server(options: Sequence[str] = ()) -> Iterator[str]:
    """Its base URL, once it listens; it is ended afterwards. Raises `RuntimeError` if it does not start."""
    command = [sys.executable, "-m", "dendrite_server", "--port", "0", *options]
    # The announcement on its standard output names the port; errors go where ours go.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert process.stdout is not None
    try:
        announced = process.stdout.readline()
        if " at http" not in announced:
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        yield announced.strip().rpartition(" at ")[2]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
