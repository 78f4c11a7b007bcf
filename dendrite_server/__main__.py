"""`python -m dendrite_server`: load a model, listen, and drain when asked to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn

from dendrite_core.engine.engine import Engine
from dendrite_core.errors import DendriteError, RequestError
from dendrite_server.app import create_app
from dendrite_server.command_line.arguments import engine_config, note_unused, parse_arguments, server_config
from dendrite_server.config import ServerConfig
from dendrite_server.search.running import Searches
from dendrite_server.service import Service
from dendrite_server.store import held
from dendrite_server.terminal.entry import end_loading
from dendrite_server.transport import HttpProtocol

log = logging.getLogger("dendrite.server")

# Seconds that readers get for what is written to them already, once nothing is generated any more.
LAST_READS = 10
_MAX_FILES = 65_536
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean end, 1 when the model cannot be served.

    Before it listens a signal ends it at once, with 128 and its number.
    """
    signal.signal(signal.SIGTERM, end_loading)
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=arguments.log_level.upper(), format=LOG_FORMAT)
    logging.getLogger("dendrite.access").setLevel("INFO" if arguments.access_log else "WARNING")
    try:
        config = server_config(arguments)
        refuse_if_taken(config.host, config.port)
        allow_many_callers()
        with held(config.store_path), Engine(engine_config(arguments)) as engine:
            # What was loaded lives as long as the process; the collector need not walk it at every turn.
            gc.collect()
            gc.freeze()
            note_unused(arguments, engine.config.device)
            serve(engine, config)
    except DendriteError as error:
        print(f"dendrite: cannot serve {arguments.model or 'the embedded model'}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def refuse_if_taken(host: str, port: int) -> None:
    """Before a model is read, which may take minutes. Raises `RequestError`."""
    try:
        asyncio.run(_bind(host, port))
    except OSError as error:
        # asyncio's text begins with the address as Python writes it.
        reason = str(error.strerror).rpartition(": ")[2]
        raise RequestError(f"{host}:{port}: {reason} (--host and --port)", param="port") from error


def allow_many_callers() -> None:
    """Each holds a file, of which a process has 1024 by default, and more where it asks for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    # A system that allows less than it says still serves as many as it does now.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


async def _bind(host: str, port: int) -> None:
    """Take the addresses as the server will, and give them back."""
    loop = asyncio.get_running_loop()
    (await loop.create_server(asyncio.Protocol, host, port, start_serving=False)).close()


def serve(engine: Engine, config: ServerConfig) -> None:
    """Listen until told to stop; the engine has no requests left afterwards."""
    app: Any = create_app(engine, config)
    settings = uvicorn.Config(
        app,
        http=HttpProtocol,
        host=config.host,
        port=config.port,
        access_log=False,
        # Its lines go where ours go, in the same form.
        log_config=None,
        log_level="warning",
        lifespan="off",
        server_header=False,
        # Longer than clients keep a pooled connection, so that none is closed under a new request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=LAST_READS,
    )
    try:
        DrainingServer(settings, app.state.service, app.state.searches).run()
    finally:
        app.state.service.keep()


class DrainingServer(uvicorn.Server):
    """A server that at the first SIGTERM or SIGINT finishes what runs, and at the second ends it.

    Each reader is told so, and branches are kept as they are then. A third signal does not wait for readers.
    """

    def __init__(self, config: uvicorn.Config, service: Service, searches: Searches) -> None:
        super().__init__(config)
        self._service = service
        self._searches = searches
        self._signals = 0

    async def serve(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._announcement(), flush=True)

    def _announcement(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        names = ", ".join(self._service.names)
        summary = self._service.engine.config.summary()
        return f"Dendrite {self._service.version} serves {names} at {url}\n  {summary}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not as uvicorn does it, which closes the door at once and raises the signal again at the end."""
        self._signals += 1
        self._service.draining = True
        if self._signals == 1:
            self._loop.call_soon_threadsafe(self._begin_draining)
        elif self._signals == 2:
            self._loop.call_soon_threadsafe(self._hurry)
        else:
            self.force_exit = self.should_exit = True

    def _begin_draining(self) -> None:
        self._draining = self._loop.create_task(self._drain())

    def _hurry(self) -> None:
        self._service.engine.end_all()
        self.config.timeout_graceful_shutdown = 1

    async def _drain(self) -> None:
        engine, timeout = self._service.engine, self._service.config.drain_timeout
        log.info("draining: %d requests in flight", engine.in_flight)
        if not await self._has_ended(timeout):
            log.warning("%d requests did not finish in %g s and are ended", engine.in_flight, timeout)
            engine.end_all()
        await asyncio.to_thread(self._service.keep)
        self._service.feed.close()
        self.should_exit = True

    async def _has_ended(self, timeout: float) -> bool:
        """Wait for what runs; searches first, as they still have requests to make."""
        begin = self._loop.time()
        if not await self._searches.ended(timeout):
            return False
        left = max(0.0, timeout - (self._loop.time() - begin))
        return await asyncio.to_thread(self._service.engine.drain, left)


if __name__ == "__main__":
    sys.exit(main())
