"""Schemathesis reads /openapi.json and sends what it says, and what it does not: never a 5xx.

Answers are also held to the document: their status, their content type, their schema. How much is generated
is kept small, because that is not what is asked here.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from dendrite_server.description.openapi import OPERATIONS

pytestmark = pytest.mark.clients

schemathesis = pytest.importorskip("schemathesis", reason="the extra 'compat' is missing")

EXAMPLES = 25
SHORT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"max_completion_tokens": 2, "max_tokens": 2},
    "/v1/completions": {"max_tokens": 2},
    "/v1/responses": {"max_output_tokens": 2},
    "/v1/search": {"budget": {"nodes": 2, "tokens": 4}, "generator": {"max_tokens": 2}},
}
MOST_CHOICES = 4
# Answers that end with the server; tests/server/test_tree_events.py reads them.
ENDLESS = {("GET", "/v1/trees/events")}


@pytest.fixture(scope="session")
def described(base_url: str) -> Any:
    return schemathesis.openapi.from_url(base_url.removesuffix("/v1") + "/openapi.json")


def shortened(path: str, body: Any) -> Any:
    """The same request, asking for little."""
    if not isinstance(body, dict) or path not in SHORT:
        return body
    small = {**body, **{name: value for name, value in SHORT[path].items() if name != "max_tokens"}}
    if path == "/v1/completions" or "max_tokens" in body:
        small |= {name: value for name, value in SHORT[path].items() if name == "max_tokens"}
    for name in ("n", "n_branches", "best_of"):
        if isinstance(body.get(name), int):
            small[name] = min(body[name], MOST_CHOICES)
    return small


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS.keys() - ENDLESS))
def test_no_request_breaks_the_server(described: Any, base_url: str, method: str, path: str) -> None:
    if path not in described:
        pytest.skip("this server does not have the route")
    modes = [schemathesis.GenerationMode.POSITIVE]
    if OPERATIONS[method, path].body is not None or OPERATIONS[method, path].query is not None:
        # Any text is a name, so a path alone can hold nothing wrong.
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    checks = schemathesis.checks
    held_to = [
        checks.not_a_server_error,
        schemathesis.specs.openapi.checks.response_schema_conformance,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
    ]
    operation = described[path][method]

    for mode in modes:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            case.body = shortened(path, case.body)
            answer = case.call(base_url=base_url.removesuffix("/v1"), timeout=60)
            case.validate_response(answer, checks=held_to)

        send()
