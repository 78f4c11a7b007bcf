"""What happens on the wire: reading bodies, noticing hang-ups, and streams of server-sent events.

`EventStream` does what sse-starlette's response does at an eighth of the cost per frame
(docs/adr/0003-event-streams.md); it pings only during silence, gives up on a reader that takes nothing, and
leaves a stream alone when the process is asked to stop.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from dendrite_core.errors import RequestError
from dendrite_server.errors import (
    BodyTooLarge,
    InvalidEncoding,
    InvalidHttp,
    UnsupportedEncoding,
    error_body,
    error_frame,
    report,
)
from dendrite_server.protocol.identity import new_request_id
from dendrite_server.protocol.response import encode_json

T = TypeVar("T")

log = logging.getLogger("dendrite.server")

PING = b": keep-alive\n\n"


class ClientGone(Exception):
    """The client hung up; nobody is left to answer."""


class HttpProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, but what is no HTTP gets an error in OpenAI's shape as well, not plain text."""

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_refusal(InvalidHttp(msg)))
        self.transport.close()


def _refusal(error: RequestError) -> bytes:
    body = encode_json(error_body(error)).encode()
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"HTTP/1.1 400 Bad Request\r\n{head}\r\nx-request-id: {new_request_id()}\r\n\r\n".encode() + body


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, unpacked if it came packed.

    Raises `BodyTooLarge`, `InvalidEncoding` and `UnsupportedEncoding` once it is read to its end, so that the
    client hears it.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > 4 * limit:
            break
    if size > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    body, encoding = b"".join(chunks), request.headers.get("content-encoding", "").strip().lower()
    # In a thread, because little can unpack to `limit`.
    return body if encoding in ("", "identity") else await asyncio.to_thread(unpack, body, encoding, limit)


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """What a `Content-Encoding` holds. Raises `BodyTooLarge`, `InvalidEncoding`, `UnsupportedEncoding`."""
    match encoding:
        case "gzip" | "x-gzip":
            window = 16 + zlib.MAX_WBITS
        case "deflate":
            # Some leave zlib's header out, which begins with the number of its method.
            window = zlib.MAX_WBITS if body[:1] and body[0] & 15 == zlib.DEFLATED else -zlib.MAX_WBITS
        case _:
            raise UnsupportedEncoding(
                f"Content-Encoding '{encoding}' is not known here; gzip and deflate are."
            )
    stream = zlib.decompressobj(window)
    try:
        found = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidEncoding(f"The request body is not what Content-Encoding says: {error}") from None
    if len(found) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes when it is unpacked.")
    if not stream.eof or stream.unused_data:
        what = "goes on after its end" if stream.eof else "is cut off"
        raise InvalidEncoding(f"The request body is not what Content-Encoding says: it {what}.")
    return found


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up. Raises `ClientGone`."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await _end(task, gone)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class EventStream(Response):
    """A response of frames that are already encoded.

    The 200 is sent with the first frame, so an error before it still gets its own status; after
    `keep_alive` seconds of silence it is sent anyway, with a comment. A single write that takes longer
    than `patience` seconds means that the reader has stopped reading, and ends the stream.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], *, keep_alive: float, patience: float) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._keep_alive = keep_alive
        self._patience = patience
        self._open = False
        self._written = 0.0
        self._writing: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._request_id = scope.get("dendrite.request_id", "-")
        writer = asyncio.create_task(self._write_all(send))
        guard = asyncio.create_task(self._guard(receive, send))
        try:
            await asyncio.wait((writer, guard), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(writer, guard)
            await self._frames.aclose()
        if not writer.cancelled():
            writer.result()

    async def _write_all(self, send: Send) -> None:
        try:
            async for frame in self._frames:
                await self._write(send, frame)
        except Exception as error:
            if not self._open:
                raise
            report(error, self._request_id)
            await self._write(send, error_frame(error))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, frame: bytes) -> None:
        clock = asyncio.get_running_loop().time
        self._writing = clock()
        if not self._open:
            self._open = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        self._writing = None
        self._written = clock()

    async def _guard(self, receive: Receive, send: Send) -> None:
        """Returns when the client is gone or reads nothing; meanwhile breaks long silences."""
        clock = asyncio.get_running_loop().time
        self._written = clock()
        while not await _ends_within(_hung_up(receive), min(self._keep_alive, self._patience) / 2):
            now = clock()
            stuck = self._writing is not None and now - self._writing > self._patience
            if self._writing is None and now - self._written >= self._keep_alive:
                stuck = not await _ends_within(self._write(send, PING), self._patience)
            if stuck:
                log.warning("%s: the client stopped reading; its stream was ended", self._request_id)
                return


async def _ends_within(work: Coroutine[Any, Any, None], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True
