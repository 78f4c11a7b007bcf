"""What does the HTTP server do under load, and how much of the time is the server's own?

A server and its engine in one process, the load in another. Closed loop: so many streams, each sending its
next request when it has its answer. Open loop: requests arrive at random at shares of the best rate seen, and
wait for nobody. The closed loop is then sent to the same engine without HTTP, in a fresh process:
`server_share_pct` is what of the throughput is lost on the way. Doubt it on few cores: whoever sends the load
takes its part of them, over HTTP more than without, and that part counts as the server's here.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from benchmarks.measure.client import connect
from benchmarks.measure.fresh import in_fresh_process
from benchmarks.measure.load import Loaded, closed_loop, open_loop
from benchmarks.measure.models import ModelChoice, add_model_arguments, choice_of, numbers, random_prompt
from benchmarks.measure.server import dendrite_server
from benchmarks.measure.target import Asked, EngineTarget, Target
from benchmarks.record import emit

Row = dict[str, Any]
Measure = Callable[[str, Target], Coroutine[Any, Any, list[Row]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--base-url", help="a running server, with /v1, instead of one started here")
    default = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    parser.add_argument("--streams", type=numbers, default=default, metavar="N,N,...", help="closed loop")
    parser.add_argument("--requests", type=int, default=256, help="of a level, at least two for each stream")
    parser.add_argument("--load", type=numbers, default=[50, 80, 95], metavar="N,N,...", help="open loop, %%")
    parser.add_argument("--seconds", type=float, default=10, help="of arrivals in the open loop")
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--output-length", type=int, default=64)


def run(args: argparse.Namespace) -> list[Row]:
    """Rows over HTTP, then without it."""
    choice = choice_of(args)
    measure = partial(_measure, args)
    if args.base_url:
        rows = _over_http(args.base_url, measure)
    else:
        with dendrite_server(choice.server_options()) as base_url:
            rows = _over_http(base_url, measure)
        add_server_share(rows, in_fresh_process(_without_http, choice, measure))
    names = ("model", "threads", "prompt_length", "output_length", "requests")
    settings = {name: getattr(args, name) for name in names}
    emit("serve", {**settings, "through": args.base_url or "its own server"}, rows, save=args.save)
    return rows


def add_server_share(rows: list[Row], bare: list[Row]) -> None:
    """Append the rows without HTTP, and say at each closed level what part of their throughput is missing."""
    rates = {row["streams"]: row["tokens_s"] for row in bare}
    for row in rows:
        if row["streams"] in rates:
            row["server_share_pct"] = 100 * (1 - row["tokens_s"] / rates[row["streams"]])
    rows += bare


def _levels(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Streams, and how many requests each of them sends."""
    return [(streams, max(2, min(args.requests // streams, 16))) for streams in args.streams]


def _over_http(base_url: str, measure: Measure) -> list[Row]:
    async def go() -> list[Row]:
        async with connect(base_url) as server:
            return await measure("HTTP", server)

    return asyncio.run(go())


def _without_http(choice: ModelChoice, measure: Measure) -> list[Row]:
    with choice.engine() as engine:
        return asyncio.run(measure("engine", EngineTarget(engine)))


async def _measure(args: argparse.Namespace, way: str, target: Target) -> list[Row]:
    """The closed loop at every level, then the open one at shares of the best rate seen."""
    sent = 0

    def make(number: int) -> Asked:
        return Asked(random_prompt(sent + number, args.prompt_length), args.output_length, seed=number)

    await closed_loop(target, make, 4, 2)
    rows, best = [], 0.0
    for streams, each in _levels(args):
        sent += 100_000
        loaded = await closed_loop(target, make, streams, each)
        rows.append(_row(way, "closed", streams, None, loaded))
        best = max(best, rows[-1]["requests_s"])
    for percent in args.load if way == "HTTP" else []:
        sent += 100_000
        rate = best * percent / 100
        loaded = await open_loop(target, make, rate, max(16, round(rate * args.seconds)))
        rows.append(_row(way, "open", None, rate, loaded))
    return rows


def _row(way: str, loop: str, streams: int | None, rate: float | None, loaded: Loaded) -> Row:
    named = {"way": way, "loop": loop, "streams": streams, "rate": rate}
    return {**named, **loaded.figures(), "server_share_pct": None}
