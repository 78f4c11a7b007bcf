"""`/` and `/page/`: the page and its files, out of the package, with nothing fetched from anywhere else."""

from __future__ import annotations

from importlib.resources import files

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

PREFIX = "/page/"
_FOLDER = files("dendrite_server.page") / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Files are asked for again each time, and not sent again unless they have changed.
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


async def show_page(request: Request) -> Response:
    return Response((_FOLDER / "index.html").read_bytes(), headers=_HEADERS, media_type="text/html")


class PageFiles(StaticFiles):
    """The files of the page, under the page's own policy."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await super().__call__(scope, receive, send_with_policy)


def is_page(path: str) -> bool:
    """Whether a path belongs to the page, which shows nothing before it is given the key."""
    return path == "/" or path.startswith(PREFIX)


routes = [
    Route("/", show_page, methods=["GET"]),
    Mount(PREFIX, PageFiles(directory=str(_FOLDER))),
]
