"""What is watched is there: every series that the dashboard and the alerts ask for is one of /metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml

from tests.server.conftest import Server

FOLDER = Path(__file__).parents[2] / "scripts" / "docker" / "observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())
# Kinds of panel that draw nothing.
HEADINGS = {"row"}


def expressions() -> Iterator[Any]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            known = target["expr"].replace("$__rate_interval", "1m")
            yield pytest.param(known, id=f"{panel['title']}-{target['refId']}")
    for rule in ALERTS["groups"][0]["rules"]:
        yield pytest.param(rule["expr"], id=rule["alert"])


def selectors(node: Any) -> Iterator[Any]:
    """All series that a parsed expression reads."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
        below = getattr(node, name, None)
        for one in below if isinstance(below, list) else [below]:
            if one is not None:
                yield from selectors(one)


@pytest.fixture(scope="module")
def series(server: Server, http: httpx.Client) -> dict[str, str]:
    """Name of a series -> all its lines, after a request that gave the counters something to count."""
    http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3, "n": 2}).raise_for_status()
    found: dict[str, str] = {}
    for line in http.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name = re.split(r"[{ ]", line, maxsplit=1)[0]
            found[name] = found.get(name, "") + line + "\n"
    return found


@pytest.mark.parametrize("expression", expressions())
def test_what_an_expression_reads_is_in_the_metrics(expression: str, series: dict[str, str]) -> None:
    read = list(selectors(promql_parser.parse(expression)))
    assert read
    for selector in read:
        assert selector.name in series
        for matcher in selector.matchers.matchers:
            if matcher.name != "instance":  # which Prometheus adds
                assert f'{matcher.name}="{matcher.value}"' in series[selector.name]


def test_the_servers_own_labels_are_the_ones_the_legend_shows(series: dict[str, str]) -> None:
    legends = [t["legendFormat"] for panel in DASHBOARD["panels"] for t in panel.get("targets", [])]
    shown = {label for legend in legends for label in re.findall(r"{{(\w+)}}", legend)}
    assert shown == {"finished_reason"}
    assert "finished_reason=" in series["dendrite_request_success_total"]


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["type"] in HEADINGS or panel["targets"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
