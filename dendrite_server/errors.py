"""One table from error classes to HTTP: status, type and code of OpenAI's error body.

Every error of this server, whichever layer it comes from, is `{"error": {"message", "type", "param",
"code"}}` with all four keys. There is no 409: the OpenAI SDK retries it silently.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from dendrite_core.errors import (
    BranchNotFound,
    DendriteError,
    EngineClosed,
    ModelNotFound,
    QueueFull,
    RequestError,
    SequenceFailed,
)
from dendrite_server.protocol.response import encode_json

log = logging.getLogger("dendrite.server")


class BodyTooLarge(RequestError):
    """A request body over the server's limit."""

    code = "request_too_large"


class InvalidEncoding(RequestError):
    """A packed body that cannot be unpacked."""

    code = "invalid_content_encoding"


class UnsupportedEncoding(RequestError):
    """A body packed in a way that nobody here knows."""

    code = "unsupported_content_encoding"


class InvalidHttp(RequestError):
    """What arrived is no request at all."""

    code = "invalid_http"


class CorsRefused(RequestError):
    """A browser asks whether a page of another origin may call, and it may not."""

    code = "cors_refused"


class Unauthorized(RequestError):
    """No API key, or a wrong one."""

    code = "invalid_api_key"


class UnknownRoute(RequestError):
    """No such path here."""

    code = "unknown_url"


class NotFound(RequestError):
    """Nothing of that id is kept here, or not any more."""


class WrongMethod(RequestError):
    """A path that exists, but not for this method."""

    code = "method_not_supported"


@dataclass(frozen=True, slots=True)
class Row:
    """How a class of errors is answered; `code` None takes the error's own."""

    error: type[Exception]
    status: int
    type: str
    code: str | None = None


# The first row that fits counts, so subclasses come before their bases.
TABLE = (
    Row(BranchNotFound, 404, "invalid_request_error"),
    Row(ModelNotFound, 404, "invalid_request_error"),
    Row(NotFound, 404, "invalid_request_error"),
    Row(UnknownRoute, 404, "invalid_request_error"),
    Row(WrongMethod, 405, "invalid_request_error"),
    Row(BodyTooLarge, 413, "invalid_request_error"),
    Row(UnsupportedEncoding, 415, "invalid_request_error"),
    Row(Unauthorized, 401, "authentication_error"),
    Row(RequestError, 400, "invalid_request_error"),
    Row(QueueFull, 429, "rate_limit_error", "rate_limit_exceeded"),
    Row(EngineClosed, 503, "service_unavailable_error", "server_shutting_down"),
    Row(SequenceFailed, 500, "server_error", "generation_failed"),
    Row(Exception, 500, "server_error", "internal_error"),
)

INTERNAL_MESSAGE = "The server had an error while processing your request."
FAILED_MESSAGE = "The generation failed on the server; other requests are not affected."


def row_of(error: Exception) -> Row:
    return next(row for row in TABLE if isinstance(error, row.error))


def error_body(error: Exception) -> dict[str, Any]:
    row = row_of(error)
    body = {
        "message": _message(error, row),
        "type": row.type,
        "param": error.param if isinstance(error, RequestError) else None,
        "code": row.code or getattr(error, "code", None),
    }
    return {"error": body}


def _message(error: Exception, row: Row) -> str:
    # What went wrong inside stays inside: the log has it, with the request's id.
    if row.status < 500 or row.error is EngineClosed:
        return str(error)
    return FAILED_MESSAGE if isinstance(error, SequenceFailed) else INTERNAL_MESSAGE


def error_response(error: Exception) -> Response:
    headers = {}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(math.ceil(error.retry_after))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    if isinstance(error, UnsupportedEncoding):
        headers["accept-encoding"] = "gzip, deflate"
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    content = encode_json(error_body(error))
    return Response(content, row_of(error).status, headers, media_type="application/json")


def error_frame(error: Exception) -> bytes:
    """An error inside a stream whose 200 is already sent."""
    return f"data: {encode_json(error_body(error))}\n\n".encode()


def report(error: Exception, request_id: str) -> None:
    """Log what the caller is not told."""
    if isinstance(error, SequenceFailed):
        log.error("%s failed: %s", request_id, error)
    elif not isinstance(error, DendriteError):
        log.error("%s failed", request_id, exc_info=error)


async def answer_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for the errors that are raised on purpose."""
    if isinstance(error, HTTPException):
        error = _routing_error(request, error)
    report(error, request.scope.get("dendrite.request_id", "-"))
    return error_response(error)


def _routing_error(request: Request, error: HTTPException) -> Exception:
    method, path = request.method, request.url.path
    if error.status_code == 404:
        meant = _path_meant(request)
        hint = f"Perhaps {meant} was meant." if meant else "GET /openapi.json lists what there is."
        return UnknownRoute(f"Unknown request URL: {method} {path}. {hint}")
    if error.status_code == 405:
        return WrongMethod(f"Not allowed to {method} on {path}; perhaps another HTTP method was meant.")
    return RequestError(str(error.detail), code=None)


def _path_meant(request: Request) -> str | None:
    """The path that differs by what base URLs most often have too little or too much, if it exists."""
    path = request.url.path
    for other in (path.rstrip("/"), f"/v1{path}", path.removeprefix("/v1")):
        scope = {**request.scope, "path": other}
        if other != path and any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            return other
    return None
