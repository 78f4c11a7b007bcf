"""Checks a wheel as a stranger would: everything is in it, it installs into an empty environment, `dendrite
serve` without arguments answers there, and ends when it is told to.

    python -m scripts.wheel dist/dendrite-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("dendrite_core", "dendrite_server")
# What the page is made of, as against what is served.
NOT_SHIPPED = ("dendrite_server/page/bundle/", "dendrite_server/page/README.md")
SEARCH = ["search", "--local", "--game24", "4 5 6 10"]
PUZZLE = {"messages": [{"role": "user", "content": "Solve 24: 4 9 10 13"}], "temperature": 0, "n": 2}
LIBRARY = "from dendrite_core import Engine; print(Engine.from_pretrained().generate('Hello').usage)"


def missing(wheel: Path) -> list[str]:
    """Files of the packages, as git knows them, that the wheel does not carry."""
    command = ["git", "-C", str(ROOT), "ls-files", *PACKAGES]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(wheel) as archive:
        lost = set(listed.stdout.split()) - set(archive.namelist())
    return sorted(name for name in lost if not name.startswith(NOT_SHIPPED))


def install(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel and what it asks for; its folder of programs."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def serve(programs: Path, folder: Path) -> None:
    """Start the server as one who has nothing set, ask it, stop it."""
    bare = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    for command in (["python", "-c", LIBRARY], ["dendrite-bench", "--help"], ["dendrite", *SEARCH]):
        run = [str(programs / command[0]), *command[1:]]
        subprocess.run(run, cwd=folder, env=bare, check=True, timeout=120, stdout=subprocess.DEVNULL)
    command = [str(programs / "dendrite"), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=bare, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[-1]
            request = urllib.request.Request(f"{url}/chat/completions", json.dumps(PUZZLE).encode())
            with urllib.request.urlopen(request, timeout=60) as answer:
                texts = [choice["message"]["content"] for choice in json.load(answer)["choices"]]
            assert all(text.endswith("= 24") for text in texts), texts
            for path in ("/", "/health", "/metrics", "/openapi.json"):
                urllib.request.urlopen(url.removesuffix("/v1") + path, timeout=10).close()
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


def main(wheel: Path) -> None:
    lost = missing(wheel)
    assert not lost, f"not in the wheel, see [tool.setuptools] in pyproject.toml: {lost}"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(os.path.realpath(made))
        serve(install(wheel, folder / "env"), folder)
    print(f"{wheel.name}: {wheel.stat().st_size >> 20} MB; it is complete, installs and serves")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
