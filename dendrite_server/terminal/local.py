"""A search in this process, with the events a server would send: the same request, read the same way."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

from dendrite_core.engine.engine import Engine
from dendrite_core.errors import DendriteError
from dendrite_core.search import EngineBackend, Event, Search
from dendrite_server.command_line.arguments import engine_config, parse_arguments
from dendrite_server.config import ServerConfig
from dendrite_server.search.request import parse_search
from dendrite_server.service import Service
from dendrite_server.terminal.client import Refused

Body = dict[str, Any]


def search_here(model: str, body: Body) -> Iterator[tuple[str, Body]]:
    """Events of the search and, last, `completed`. Raises `Refused`."""
    try:
        with Engine(engine_config(parse_arguments(["--model", model] if model else []))) as engine:
            yield from _events(engine, body)
    except DendriteError as error:
        raise Refused(400, str(error)) from None


def _events(engine: Engine, body: Body) -> Iterator[tuple[str, Body]]:
    service = Service(engine, ServerConfig())
    asked = parse_search(body, service.limits)
    told: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
    plan = asked.plan
    search = Search(
        EngineBackend(engine, namespace=asked.namespace),
        asked.prompt,
        plan.method,
        budget=plan.budget,
        seed=plan.seed,
        keep=True,
        on_event=told.put,
    )

    async def run() -> None:
        for params in plan.sampled:
            await service.prepare(params)
        await search.run()

    def work() -> None:
        try:
            asyncio.run(run())
            told.put(None)
        except BaseException as error:
            told.put(error)

    thread = threading.Thread(target=work, name="dendrite-search", daemon=True)
    thread.start()
    # Whoever leaves early closes the engine, which ends the search.
    while (event := told.get()) is not None:
        if isinstance(event, BaseException):
            raise event
        yield event.kind, event.as_dict()
    assert search.result is not None
    yield "completed", {"result": search.result.as_dict()}
