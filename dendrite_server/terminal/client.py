"""A server as the terminal commands reach it: JSON, and streams of events, over the standard library."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

DEFAULT_URL = "http://localhost:8000/v1"

Body = dict[str, Any]


class Unreachable(Exception):
    """Nobody listens there, or not any more."""


class Refused(Exception):
    """The server says no; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def add_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help="base URL of a server (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="its key (environment: DENDRITE_API_KEY)")


class Client:
    """One server. Raises `Unreachable` and `Refused`."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        self.base_url = _with_path(base_url)
        self._key = api_key or os.environ.get("DENDRITE_API_KEY")

    def get(self, path: str) -> Body:
        with self._open(path) as answer:
            body: Body = json.load(answer)
        return body

    def events(
        self, path: str, body: Body | None = None, last_id: str | None = None
    ) -> Iterator[tuple[str, Body, str | None]]:
        """(event, data, id) until the server ends the stream."""
        fields: dict[str, str] = {}
        with self._open(path, body, last_id) as answer:
            try:
                for raw in answer:
                    name, _, value = raw.decode().rstrip("\n").partition(": ")
                    if name:
                        fields[name] = value
                    elif "data" in fields:
                        yield fields.get("event", "message"), json.loads(fields["data"]), fields.get("id")
                        fields = {}
            except (OSError, HTTPException) as error:
                raise Unreachable(f"the connection to {self.base_url} broke: {error}") from None

    def _open(self, path: str, body: Body | None = None, last_id: str | None = None) -> IO[bytes]:
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        if last_id:
            headers["last-event-id"] = last_id
        data = None if body is None else json.dumps(body).encode()
        try:
            answer: IO[bytes] = urlopen(Request(self.base_url + path, data, headers))
        except HTTPError as error:
            with error:
                raise Refused(error.code, _message(error)) from None
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(f"no server at {self.base_url} ({reason}); start one: dendrite serve") from None
        return answer


def _with_path(url: str) -> str:
    """The base URL that a server's mere address stands for; one with a path stays."""
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    return url if urlsplit(url).path else f"{url}/v1"


def _message(error: HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"
