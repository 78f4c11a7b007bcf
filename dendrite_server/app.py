"""`create_app`: the routes, and what every request passes on its way in and out.

From the outside in: a request id and an answer for every error, CORS, the key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Sequence
from time import perf_counter
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dendrite_core.engine.engine import Engine
from dendrite_core.errors import DendriteError
from dendrite_server.config import ServerConfig
from dendrite_server.endpoints import (
    branches,
    chat,
    completions,
    conversations,
    meta,
    responses,
    search,
    stored,
)
from dendrite_server.errors import CorsRefused, Unauthorized, answer_error, error_response, report
from dendrite_server.page import serving as page
from dendrite_server.protocol.identity import new_request_id
from dendrite_server.responses.archive import Archive
from dendrite_server.search.running import Searches
from dendrite_server.service import Service
from dendrite_server.transport import ClientGone
from dendrite_server.trees import endpoints as trees

log = logging.getLogger("dendrite.server")
access = logging.getLogger("dendrite.access")

# Anyone may ask whether the server lives, and open the page, which asks for the key itself.
_OPEN_PATHS = ("/health", "/ping")
_LOCAL_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
_MAX_WARNING = 2000
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")


def create_app(engine: Engine, config: ServerConfig | None = None) -> Starlette:
    """The ASGI application that serves `engine`; whoever made the engine closes it."""
    config = config or ServerConfig()
    middleware = [
        Middleware(Envelope),
        Middleware(
            Cors,
            allow_origins=config.allowed_origins,
            allow_origin_regex=_LOCAL_ORIGIN,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "warnings"],
        ),
    ]
    if config.api_keys:
        middleware.append(Middleware(KeyCheck, api_keys=config.api_keys))
    app = Starlette(
        routes=[
            *chat.routes,
            *completions.routes,
            *responses.routes,
            *conversations.routes,
            *stored.routes,
            *branches.routes,
            *trees.routes,
            *search.routes,
            *meta.routes,
            *page.routes,
        ],
        middleware=middleware,
        exception_handlers={DendriteError: answer_error, HTTPException: answer_error},
    )
    # A path with a slash too many is a 404 in OpenAI's shape, not a redirect that drops the body.
    app.router.redirect_slashes = False
    app.state.service = Service(engine, config)
    app.state.archive, app.state.runs = Archive(config), {}
    app.state.searches = Searches()
    return app


class Envelope:
    """Gives every request an id and every failure an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["dendrite.request_id"] = _request_id(scope)
        status, begin = 0, perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                scope["app"].state.service.answers[status] += 1
                headers = MutableHeaders(scope=message)
                # A body may have named the request after this saw it.
                headers["x-request-id"] = scope["dendrite.request_id"]
                if ignored := scope.get("dendrite.ignored"):
                    headers["warnings"] = _warning(ignored)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except (ClientGone, ClientDisconnect):
            return
        except asyncio.CancelledError:
            if not scope["app"].state.service.is_ending:
                raise
            log.warning("%s: the client did not take the rest in time", scope["dendrite.request_id"])
        except Exception as error:
            report(error, scope["dendrite.request_id"])
            if not status:
                await error_response(error)(scope, receive, send_with_id)
        finally:
            if access.isEnabledFor(logging.INFO):
                _note(scope, status, perf_counter() - begin)


def _note(scope: Scope, status: int, seconds: float) -> None:
    """A line of the access log; the path as it came, percent-encoded, so that it stays a line."""
    caller, path = (scope["client"] or "-")[0], scope["raw_path"].decode("latin-1")
    outcome = status or "hung up"
    name = scope["dendrite.request_id"]
    access.info("%s %s %s %s %s %.0f ms", name, caller, scope["method"], path, outcome, seconds * 1e3)


def _warning(ignored: list[str]) -> str:
    """A header of the fields' names, which are whatever a caller wrote."""
    names = ", ".join(quote(name, safe="[]._-") for name in ignored)
    return f"unknown fields ignored: {names}"[:_MAX_WARNING]


def _request_id(scope: Scope) -> str:
    """The caller's own id where it is a plain one, so that both sides' logs can be joined."""
    asked = Headers(scope=scope).get("x-request-id", "")
    return asked if _REQUEST_ID.fullmatch(asked) else new_request_id()


class Cors(CORSMiddleware):
    """starlette's, whose refusals get OpenAI's shape like any other."""

    def preflight_response(self, request_headers: Headers) -> Response:
        found = super().preflight_response(request_headers)
        if found.status_code == 200:
            return found
        reason = bytes(found.body).decode()
        hint = " '--allowed-origins' names those whose pages may call." if "origin" in reason else ""
        told = error_response(CorsRefused(f"{reason}.{hint}"))
        told.headers.update({**found.headers, **told.headers})
        return told


class KeyCheck:
    """Lets in who knows a key."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path not in _OPEN_PATHS and not page.is_page(path):
            refusal = self._refusal(Headers(scope=scope).get("authorization", ""))
            if refusal is not None:
                await error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, header: str) -> Unauthorized | None:
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "bearer" or not given:
            return Unauthorized("No API key was given: send it as 'Authorization: Bearer KEY'.")
        digest = _digest(given.strip().encode("latin-1"))
        # All of them, so that the time tells nothing of which one it was.
        right = [hmac.compare_digest(digest, one) for one in self._digests]
        return None if any(right) else Unauthorized("The API key is not valid.")


def _digest(key: bytes) -> bytes:
    """Of one length, whatever the key's."""
    return hashlib.sha256(key).digest()
