"""The example in docs/responses.md runs as it stands, on the embedded model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from dendrite_core import Engine
from dendrite_server.config import ServerConfig
from tests.server.conftest import listen

DOCS = Path(__file__).parents[2] / "docs" / "responses.md"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = str(files("dendrite_core") / "embedded")
    with Engine.from_pretrained(model, num_pages=256, threads=1) as engine:
        server, thread = listen(engine, ServerConfig(model_names=("dendrite",)))
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_the_example_runs_and_prints_what_it_says(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCS.read_text()
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    exec(example.replace("http://127.0.0.1:8000", url), {})
    said, *children = capsys.readouterr().out.splitlines()
    total = int(said.split()[1])
    assert said.startswith("completed")
    assert len(children) == 3
    for line in children:
        prompt, cached, _ = line.split()[-3:]
        assert int(prompt) > int(cached) >= total - 1
    shown = re.findall(r"```\n(completed.*?)```", text, re.DOTALL)[0].splitlines()
    assert [line.split()[0] for line in shown] == [line.split()[0] for line in (said, *children)]
