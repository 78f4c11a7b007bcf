"""`Service`: the engine as the endpoints see it, under its public names and limits."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from starlette.requests import Request

from dendrite_core.engine.engine import EMBEDDED, Engine
from dendrite_core.engine.messages import Request as EngineRequest
from dendrite_core.engine.messages import Started
from dendrite_core.engine.stream import Stream
from dendrite_core.errors import DendriteError, EngineClosed, ModelNotFound, RequestError
from dendrite_core.params import GrammarSpec, SamplingParams
from dendrite_server.config import ServerConfig
from dendrite_server.errors import TABLE
from dendrite_server.protocol.identity import completion_id
from dendrite_server.protocol.request import Limits
from dendrite_server.protocol.response import Header
from dendrite_server.tools.dialect import dialect_of
from dendrite_server.trees.feed import Feed
from dendrite_server.trees.keeper import Keeper

log = logging.getLogger("dendrite.server")

# Names come from callers, so what is remembered of them is bounded.
_MAX_WARNED = 1000


class Service:
    """One engine being served.

    `draining` is set once the process has been asked to stop, `is_ending` when nothing runs any more.
    """

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self.engine = engine
        self.config = config
        self.names = config.model_names or (_default_name(engine.config.model),)
        # The embedded model's folder is where this package is, which is nobody's business.
        self.root = self.names[0] if engine.config.model == EMBEDDED else engine.config.model
        self.created = int(time.time())
        self.version = package_version()
        self.fingerprint = self._fingerprint()
        self.dialect = dialect_of(engine.chat_template.text, engine.tokenizer, config.tool_call_parser)
        self.limits = Limits(
            vocab_size=engine.config.vocab_size,
            max_branches=engine.config.max_children,
            dialect=self.dialect,
            trusts_templates=config.trust_request_chat_template,
        )
        self.feed = Feed(engine)
        self.keeper = Keeper(engine, config.store_path) if config.store_path else None
        self.draining = self.is_ending = False
        # Of HTTP, by status; one that may come is there from the start, so that a rate sees the first.
        self.answers = Counter(dict.fromkeys((200, *(row.status for row in TABLE)), 0))
        # The event loop itself keeps no task alive.
        self._background: set[asyncio.Task[None]] = set()
        self._warned: set[str] = set()

    def model_name(self, asked: str | None) -> str:
        """The name to answer under. Raises `ModelNotFound`."""
        if asked is None:
            return self.names[0]
        if asked not in self.names:
            raise ModelNotFound(
                f"The model '{asked}' does not exist; this server has {', '.join(self.names)}.", param="model"
            )
        return asked

    def header(self, prefix: str, kind: str, model: str, started: Started, choices: int) -> Header:
        """What names an answer of this moment."""
        name = completion_id(prefix, started.branch_ids[0], choices)
        return Header(name, kind, int(time.time()), model, self.fingerprint)

    def keep(self) -> None:
        """Write down what there is of trees, if they are kept: the last time before all connections go."""
        self.is_ending = True
        if self.keeper is not None:
            self.keeper.close()

    def refuse_if_draining(self) -> None:
        """What runs may go on asking the engine; who begins something asks here. Raises `EngineClosed`."""
        if self.draining:
            raise EngineClosed("the server is shutting down and takes no new requests")

    def submit(self, request: EngineRequest) -> Stream:
        """The engine's `submit`, for what begins. Raises `EngineClosed`, `QueueFull`, `RequestError`."""
        self.refuse_if_draining()
        return self.engine.submit(request)

    async def kept(self) -> None:
        """Returns once all that has ended by now is written down, if trees are kept."""
        if self.keeper is not None:
            await asyncio.wrap_future(self.keeper.written())

    async def prepare(self, params: SamplingParams, parts: Sequence[GrammarSpec] = ()) -> None:
        """Compile what a request is held to, off the event loop, before it is submitted.

        Of a grammar made of `parts`, the one that is at fault is named.
        """
        if params.grammar is not None:
            await asyncio.to_thread(self._compile, params.grammar, parts)

    def _compile(self, grammar: GrammarSpec, parts: Sequence[GrammarSpec]) -> None:
        try:
            self.engine.grammars.compile(grammar)
        except RequestError:
            for part in parts:
                self.engine.grammars.compile(part)
            raise

    def abandon(self, stream: Stream) -> None:
        """Stop a request that nobody listens to any more, and free its branches.

        Where it is the server that left, its client comes back for them.
        """
        stream.abort()
        if not self.is_ending:
            self._later(self._free_all(stream))

    def free(self, branch_ids: Iterable[str]) -> None:
        """Give branches back that nobody was told of."""
        self._later(self._free(tuple(branch_ids)))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _free_all(self, stream: Stream) -> None:
        try:
            started = await stream.started()
        except DendriteError:
            return
        await self._free((*started.branch_ids, started.prompt_branch_id))

    async def _free(self, branch_ids: Sequence[str]) -> None:
        """One by one, because what others have forked from them since goes on."""
        for branch_id in branch_ids:
            # One that somebody else has deleted already must not keep the others.
            with suppress(DendriteError):
                await asyncio.wrap_future(self.engine.release(branch_id, prune=False))

    def warn_of(self, fields: Iterable[str]) -> None:
        """Log the fields that are ignored, each name once."""
        for name in fields:
            plain = re.sub(r"\[\d+\]", "[]", name)
            if plain not in self._warned and len(self._warned) < _MAX_WARNED:
                self._warned.add(plain)
                log.warning("the unknown field %r is ignored", plain)

    def _fingerprint(self) -> str:
        """What decides about bits: the model, its number format and this version."""
        config = self.engine.config
        facts = (config.model, config.dtype, config.device, config.decoder, self.version)
        return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:10]


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _default_name(model: str) -> str:
    """A folder is known by its last part, a hub id as it is."""
    path = Path(model)
    return path.resolve().name if path.exists() else model


def package_version() -> str:
    try:
        return version("dendrite")
    except PackageNotFoundError:
        return "unknown"
