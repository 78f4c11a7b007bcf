"""What the containers, the compose file and the deployment page run is what the server can be told."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dendrite_server.__main__ import LAST_READS
from dendrite_server.command_line.arguments import parse_arguments
from tests.server.conftest import Server

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "scripts" / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = [name for name, service in COMPOSE["services"].items() if "build" in service]


def exec_form(instruction: str) -> list[str]:
    found = re.search(rf"{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    return json.loads(found[1])


def substituted(text: str, settings: dict[str, str]) -> str:
    """As compose does it: `${NAME:-default}`."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: settings.get(found[1]) or found[2], text)


@pytest.mark.parametrize("service", OURS)
@pytest.mark.parametrize("settings", [{}, {"DENDRITE_MODEL": "a/model", "DENDRITE_GPU_MEMORY": "0.45"}])
def test_a_service_starts_with_arguments_that_there_are(service: str, settings: dict[str, str]) -> None:
    program, *entry = exec_form("ENTRYPOINT")
    assert program == "dendrite"
    command = shlex.split(substituted(COMPOSE["services"][service]["command"], settings))
    asked = parse_arguments([*entry, *command])
    assert asked.host == "0.0.0.0"
    assert asked.model == settings.get("DENDRITE_MODEL", None if service == "dendrite" else "Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("service", OURS)
def test_a_service_keeps_what_it_writes(service: str) -> None:
    mounted = {volume.split(":")[1] for volume in COMPOSE["services"][service]["volumes"]}
    assert mounted == set(exec_form("VOLUME"))
    asked = parse_arguments(exec_form("ENTRYPOINT")[1:])
    assert str(Path(asked.store_path).parent) in mounted
    assert f"HF_HOME={min(mounted)}" in DOCKERFILE
    assert COMPOSE["services"][service]["read_only"]


def test_who_stops_a_server_waits_for_its_requests_and_readers() -> None:
    longest = parse_arguments([]).drain_timeout + LAST_READS
    unit = (ROOT / "docs" / "deployment.md").read_text()
    waits = [COMPOSE["services"][service]["stop_grace_period"] for service in OURS]
    waits += re.findall(r"(?:TimeoutStopSec=|terminationGracePeriodSeconds: )(\d+)", unit)
    assert len(waits) == len(OURS) + 2
    assert all(float(wait.removesuffix("s")) >= longest + 5 for wait in waits)


def test_the_health_check_tells_a_server_from_none(server: Server) -> None:
    _, option, program = exec_form("CMD")
    for port, health in ((server.port, 0), (1, 1)):
        command = [sys.executable, option, program.replace("8000", str(port))]
        assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == health


def test_what_an_image_is_made_of_is_there_and_reaches_the_builder() -> None:
    sources = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in line.split()
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sources == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)
    targets: set[Any] = {COMPOSE["services"][service]["build"]["target"] for service in OURS}
    assert targets <= set(re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, re.MULTILINE))


@pytest.mark.parametrize("page", ["deployment.md", "determinism.md", "quickstart.md"])
def test_a_page_names_no_option_that_there_is_not(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    there_are = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) | {"--profile"}  # docker's own
    assert set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docs" / page).read_text())) <= there_are
