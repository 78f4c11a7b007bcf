"""`--unknown-fields warn`: what nobody knows is left out and said so; the rest is as strict as ever."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dendrite_server.config import ServerConfig
from dendrite_server.lenient import parse_leniently
from dendrite_server.protocol.fields import UnknownParameter
from tests.server.conftest import Serve

CHAT = "/v1/chat/completions"
SAID = [{"role": "user", "content": "hi", "id": 7}]


@pytest.fixture(scope="module")
def lenient(serve: Serve) -> Iterator[httpx.Client]:
    server = serve(ServerConfig(unknown_fields="warn"))
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post(CHAT, json={"messages": SAID, "max_tokens": 2, **fields})


def test_unknown_fields_are_named_in_a_header(lenient: httpx.Client) -> None:
    answer = ask(lenient, chatty=True, stop_regex="x")
    assert answer.status_code == 200, answer.text
    assert answer.headers["warnings"] == "unknown fields ignored: messages[0].id, chatty, stop_regex"
    plain = lenient.post(CHAT, json={"messages": [{"role": "user", "content": "hi"}]})
    assert "warnings" not in plain.headers


def test_streams_and_other_endpoints_warn_too(lenient: httpx.Client) -> None:
    assert "messages[0].id" in ask(lenient, stream=True).headers["warnings"]
    for path, fields in (("/v1/completions", {"prompt": "a"}), ("/v1/responses", {"input": "a"})):
        answer = lenient.post(path, json={**fields, "zzz": 1})
        assert answer.status_code == 200, answer.text
        assert answer.headers["warnings"].endswith("zzz")


def test_each_name_is_logged_once(lenient: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dendrite.server"):
        for _ in range(3):
            ask(lenient, only_here=1)
    logged = [record.getMessage() for record in caplog.records]
    assert logged.count("the unknown field 'only_here' is ignored") == 1


def test_what_is_known_but_cannot_be_honoured_is_still_refused(lenient: httpx.Client) -> None:
    answer = ask(lenient, audio={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")


def test_a_name_cannot_break_the_header(lenient: httpx.Client) -> None:
    answer = ask(lenient, **{"a\r\nset-cookie: x": 1, "ключ": 2})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert "%0D%0Aset-cookie" in answer.headers["warnings"]


def test_they_are_refused_without_the_option(http: httpx.Client) -> None:
    error = ask(http).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", "messages[0].id")


BODY = {"a.b": {"c[0]": [1, {"deep": {"x": 1, "kept": 2}}]}, "list": [{"y": 1}]}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("a.b.c[0][1].deep.x", {**BODY, "a.b": {"c[0]": [1, {"deep": {"kept": 2}}]}}),
        ("list[0].y", {**BODY, "list": [{}]}),
        ("list", {"a.b": BODY["a.b"]}),
    ],
)
def test_a_field_is_taken_out_wherever_it_is(path: str, left: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []

    def parse(body: dict[str, Any]) -> str:
        seen.append(body)
        if len(seen) == 1:
            raise UnknownParameter([path])
        return "read"

    assert parse_leniently(BODY, parse) == ("read", [path])
    assert seen == [BODY, left]


@pytest.mark.parametrize("path", ["nowhere", "list[3].y", "list.y", "a.b.nowhere"])
def test_a_path_that_leads_nowhere_stays_an_error(path: str) -> None:
    def parse(body: dict[str, Any]) -> None:
        raise UnknownParameter([path])

    with pytest.raises(UnknownParameter):
        parse_leniently(BODY, parse)
