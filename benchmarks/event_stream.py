"""What a stream of server-sent events costs beside what is said: this server's response and sse-starlette's.

Frames that are made already, an ASGI server that takes them at once, CPU time of the one thread. A frame's
cost is paid by the interpreter that the engine's thread shares: a step of 64 streams has 64 of them.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Callable
from time import thread_time
from typing import Any

from benchmarks.record import emit
from dendrite_server.transport import EventStream

Frames = AsyncGenerator[bytes, None]
FRAME = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
KEEP_ALIVE, PATIENCE = 15.0, 60.0


def ours(frames: Frames) -> Any:
    return EventStream(frames, keep_alive=KEEP_ALIVE, patience=PATIENCE)


def sse_starlette(frames: Frames) -> Any:
    """The same promises: a comment now and then, and an end for readers that take nothing."""
    # Not at the top: importing it patches uvicorn's signal handler.
    from sse_starlette import EventSourceResponse, ServerSentEvent

    def comment() -> ServerSentEvent:
        return ServerSentEvent(comment="keep-alive", sep="\n")

    return EventSourceResponse(
        frames, ping=KEEP_ALIVE, send_timeout=PATIENCE, sep="\n", ping_message_factory=comment
    )


CONTESTANTS: dict[str, Callable[[Frames], Any]] = {"ours": ours, "sse-starlette": sse_starlette}


async def body_of(response: Any) -> bytes:
    """All that a response writes to a client that stays."""
    written: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        written.append(message.get("body", b""))

    await response({"type": "http", "method": "POST", "headers": []}, receive, send)
    return b"".join(written)


async def frames_of(count: int) -> Frames:
    for _ in range(count):
        yield FRAME


async def _microseconds(make: Callable[[Frames], Any], frames: int, streams: int) -> float:
    begin = thread_time()
    for _ in range(streams):
        await body_of(make(frames_of(frames)))
    return (thread_time() - begin) / streams * 1e6


async def measure(make: Callable[[Frames], Any], frames: int, streams: int, rounds: int) -> dict[str, Any]:
    """Microseconds of a stream of one frame, and of every frame more: the least of some rounds."""
    await _microseconds(make, 1, streams)
    short = [await _microseconds(make, 1, streams) for _ in range(rounds)]
    long = [await _microseconds(make, 1 + frames, streams) for _ in range(rounds)]
    return {"stream_us": min(short), "frame_us": (min(long) - min(short)) / frames}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)


def run(args: argparse.Namespace) -> None:
    """Print one row for each response."""
    settings = {"frames": args.frames, "streams": args.streams, "rounds": args.rounds}
    rows = [
        {"response": name, **asyncio.run(measure(make, args.frames, args.streams, args.rounds))}
        for name, make in CONTESTANTS.items()
    ]
    emit("event-stream", settings, rows, save=args.save)
