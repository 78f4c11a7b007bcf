"""`Engine`: a model, its tree of KV, and the thread that runs them, behind a few verbs.

Verbs (`submit`, `abort`, `fork`, `release`, `describe`, `close`) are safe from any thread and only send
messages; the answers come through a `Stream` or a `Future`. `generate` and `agenerate` are `submit` for
people who want the whole completion.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from importlib.resources import files
from typing import Any

from dendrite_core.config import EngineConfig, ResolvedConfig
from dendrite_core.engine.assemble import Parts, assemble
from dendrite_core.engine.completion import Completion, collect
from dendrite_core.engine.keeping.journal import Entries, Journal, Saved
from dendrite_core.engine.keeping.restore import compile_constraints, entries, restore
from dendrite_core.engine.messages import BranchInfo, EngineStats, Request
from dendrite_core.engine.stream import Command, Stream
from dendrite_core.engine.watching.watch import News, Watch
from dendrite_core.errors import EngineClosed, QueueFull, RequestError
from dendrite_core.params import SamplingParams
from dendrite_core.text.chat_template import ChatTemplate
from dendrite_core.text.grammar import Grammar
from dendrite_core.text.tokenizer import Tokenizer

log = logging.getLogger("dendrite.engine")

Message = Mapping[str, Any]
# The model that comes with the package.
EMBEDDED = str(files("dendrite_core") / "embedded")


class Engine:
    r"""An inference engine whose KV cache is a tree.

    >>> engine = Engine.from_pretrained()  # the embedded model; else a folder or a hub id
    >>> puzzle = [{"role": "user", "content": "Explore 24: 4 9 10 13"}]
    >>> thought = engine.chat(puzzle, SamplingParams(temperature=0, stop=("\n",)))
    >>> thought.text
    '13 - 10 = 3 (left: 3 4 9)'
    >>> steps = engine.generate("", SamplingParams(seed=1, stop=("\n",)), parent_id=thought.branch_id, n=3)
    >>> [choice.text for choice in steps.choices]
    ['9 - 3 = 6 (left: 4 6)', '9 / 3 = 3 (left: 3 4)', '9 - 3 = 6 (left: 4 6)']
    >>> engine.close()

    Raises `ModelLoadError` when the model cannot be served.
    """

    def __init__(self, config: EngineConfig) -> None:
        made: Future[Parts] = Future()
        thread = threading.Thread(target=_live, args=(config, made), name="dendrite-engine", daemon=True)
        self._thread = thread
        thread.start()
        parts = made.result()
        self.config: ResolvedConfig = parts.config
        self.tokenizer: Tokenizer = parts.tokenizer
        self.chat_template: ChatTemplate = parts.chat_template
        self._loop = parts.loop
        self.grammars = parts.loop.grammars
        self._open: set[Stream] = set()
        self._closing = self._closed = False
        self._idle = threading.Condition()
        self._ids = itertools.count(1)
        log.info("ready: %s", self.config.summary())

    @classmethod
    def from_pretrained(cls, model: str = EMBEDDED, **settings: Any) -> Engine:
        """An engine for a folder, a hub id or `shape:NAME`; `settings` are fields of `EngineConfig`."""
        return cls(EngineConfig(model=model, **settings))

    # Verbs.

    def submit(self, request: Request) -> Stream:
        """Queue a request; read its `Stream`. Raises `QueueFull`, `EngineClosed`, `RequestError`.

        >>> request = engine.chat_request(
        ...     [{"role": "user", "content": "Solve 24: 4 9 10 13"}], SamplingParams(temperature=0)
        ... )
        >>> "".join(delta.text for progress in engine.submit(request) for delta in progress.choices)
        'Answer: 4 * (9 - (13 - 10)) = 24'
        """
        self._check(request)
        stream = Stream(request, self.abort, self._forget, self._grammar(request.params))
        with self._idle:
            if self._closing or not self._thread.is_alive():
                raise EngineClosed("the server is shutting down and takes no new requests")
            if len(self._open) >= self.config.max_waiting + self.config.max_rows:
                raise QueueFull(f"{len(self._open)} requests are in flight; try again shortly")
            self._open.add(stream)
            self._loop.inbox.put(stream)
        return stream

    def abort(self, stream: Stream) -> Future[None]:
        """Stop a request; what it generated stays in the tree."""
        return self._call("abort", stream)

    def fork(self, branch_id: str, count: int = 1, *, offset: int | None = None) -> Future[list[str]]:
        """Idle children of a branch, in O(1) each; `offset` as `Request.parent_offset`.

        >>> first = engine.generate("Hello", SamplingParams(max_tokens=4))
        >>> children = engine.fork(first.branch_id, 3).result()
        >>> engine.describe(first.branch_id).result().children == tuple(children)
        True
        """
        return self._call("fork", branch_id, count, offset)

    def release(self, branch_id: str, *, prune: bool = True) -> Future[list[str]]:
        """Forget a branch (with all below it) and free its pages; the ids that are gone.

        >>> first = engine.generate("Hello", SamplingParams(max_tokens=4))
        >>> child = engine.fork(first.branch_id).result()
        >>> engine.release(first.branch_id).result() == [first.branch_id, *child]
        True
        """
        return self._call("release", branch_id, prune)

    def update(
        self,
        branch_id: str,
        *,
        pinned: bool | None = None,
        ttl: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Future[BranchInfo]:
        """Pin a branch (for `ttl` seconds), unpin it, or merge into its metadata, which is bounded.

        >>> first = engine.generate("Hello", SamplingParams(max_tokens=4))
        >>> engine.update(first.branch_id, pinned=True, metadata={"score": 0.8}).result().metadata
        {'score': 0.8}
        """
        return self._call("update", branch_id, pinned, ttl, metadata)

    def describe(self, branch_id: str) -> Future[BranchInfo]:
        """A branch: its place in the tree, its tokens, its text."""
        return self._call("describe", branch_id)

    def describe_tree(self, tree_id: str) -> Future[list[BranchInfo]]:
        """All branches of a tree, parents before children."""
        return self._call("describe_tree", tree_id)

    def watch(self, wake: Callable[[], None]) -> Future[Watch]:
        """Watch every branch: `wake`, called on the engine's thread, says that there is `news`."""
        return self._call("watch", wake)

    def news(self, watch: Watch) -> Future[News]:
        """What changed since this was asked last; at first, all branches."""
        return self._call("news", watch)

    def keep(self, wake: Callable[[], None]) -> Future[Journal]:
        """A journal of all branches: `wake`, called on the engine's thread, says that there are `entries`."""
        return self._call("keep", wake)

    def entries(self, journal: Journal, *, also_running: bool = True) -> Future[Entries]:
        """What is to be written down since this was asked last; at first, all branches."""
        return self._call(entries, self._loop.book, journal, also_running)

    def restore(self, saved: Sequence[Saved]) -> Future[int]:
        """Make branches again that were written down, in the order of their last use; how many have names.

        They keep their names and their tokens, and are computed again when they are used.
        """
        return self._call(restore, self._loop.book, saved, compile_constraints(saved, self.grammars))

    def unwatch(self, watch: Watch | Journal) -> Future[None]:
        """Stop watching, or keeping."""
        return self._call("unwatch", watch)

    def stats(self) -> Future[EngineStats]:
        """Counters and gauges."""
        return self._call("stats")

    @property
    def in_flight(self) -> int:
        """Requests submitted and not yet ended."""
        return len(self._open)

    def drain(self, timeout: float | None = None) -> bool:
        """Take no new requests and wait for those in flight; whether all ended in time (seconds)."""
        with self._idle:
            self._closing = True
            return self._idle.wait_for(lambda: not self._open, timeout)

    def end_all(self) -> Future[None]:
        """Take no new requests and end those in flight, with `EngineClosed`; their branches stay."""
        with self._idle:
            self._closing = True
        return self._call(self._loop.give_up, EngineClosed("the server ended before this did"), "abort")

    def close(self) -> None:
        """End everything at once and stop the thread. May be repeated."""
        with self._idle:
            # What comes before this is answered; under the lock, for nothing to come after it.
            self._closing = self._closed = True
            self._loop.inbox.put(None)
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Whole completions.

    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        parent_id: str | None = None,
        parent_offset: int | None = None,
    ) -> Completion:
        """Complete a prompt (text or token ids), or go on from a branch; blocks until all is there."""
        request = self._request(prompt, params, n, parent_id, parent_offset)
        stream = self.submit(request)
        return collect(stream.wait_started(), n, stream)

    async def agenerate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        parent_id: str | None = None,
        parent_offset: int | None = None,
    ) -> Completion:
        """As `generate`, in an event loop; stops generating when it is cancelled.

        >>> asyncio.run(engine.agenerate([1, 2, 3], SamplingParams(max_tokens=2, seed=1))).usage.prompt_tokens
        3
        """
        stream = self.submit(self._request(prompt, params, n, parent_id, parent_offset))
        try:
            return collect(await stream.started(), n, await stream.rest())
        except asyncio.CancelledError:
            stream.abort()
            raise

    def chat(
        self, messages: Iterable[Message], params: SamplingParams | None = None, *, n: int = 1, **parent: Any
    ) -> Completion:
        """Complete a conversation; with `parent_id`, `messages` are only those since that branch."""
        stream = self.submit(self.chat_request(list(messages), params or SamplingParams(), n=n, **parent))
        return collect(stream.wait_started(), n, stream)

    def chat_request(
        self,
        messages: list[Message],
        params: SamplingParams,
        *,
        n: int = 1,
        parent_id: str | None = None,
        parent_offset: int | None = None,
        **template: Any,
    ) -> Request:
        """The request of a conversation, through the model's chat template."""
        prompt, joint = self.encode_chat(messages, continues=parent_id is not None, **template)
        return Request(
            request_id=f"request_{next(self._ids)}",
            prompt=prompt,
            joint=joint,
            params=params,
            n=n,
            parent_id=parent_id,
            parent_offset=parent_offset,
        )

    def encode_chat(
        self, messages: list[Message], *, continues: bool, chat_template: str | None = None, **template: Any
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(prompt, joint) token ids of messages: a whole conversation, or what follows a branch.

        `chat_template` is used instead of the model's own; it runs in the same sandbox, but may run forever.
        """
        if continues and not messages:
            return (), ()
        ours = self.chat_template if chat_template is None else self.chat_template.replaced_by(chat_template)
        if continues:
            joint, text = ours.render_after(messages, **template)
            return tuple(self.tokenizer.encode(text, special=True)), tuple(
                self.tokenizer.encode(joint, special=True)
            )
        text = ours.render(messages, **template)
        return tuple(self.tokenizer.encode(text, special=True)), ()

    def _request(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None,
        n: int,
        parent_id: str | None,
        parent_offset: int | None,
    ) -> Request:
        if isinstance(prompt, str):
            raw = parent_id is None
            ids = self.tokenizer.encode_prompt(prompt) if raw else self.tokenizer.encode(prompt, special=True)
        else:
            ids = list(prompt)
        return Request(
            request_id=f"request_{next(self._ids)}",
            prompt=tuple(ids),
            params=params or SamplingParams(),
            n=n,
            parent_id=parent_id,
            parent_offset=parent_offset,
        )

    def _grammar(self, params: SamplingParams) -> Grammar | None:
        return None if params.grammar is None else self.grammars.compile(params.grammar)

    def _check(self, request: Request) -> None:
        if not 1 <= request.n <= self.config.max_children:
            raise RequestError(f"n must be in [1, {self.config.max_children}], got {request.n}", param="n")
        vocab = self.config.vocab_size
        if request.prompt and not (min(request.prompt) >= 0 and max(request.prompt) < vocab):
            raise RequestError(f"token ids must be in [0, {vocab})", param="prompt")
        if any(token >= vocab for token in request.params.logit_bias):
            raise RequestError(f"logit_bias keys must be token ids below {vocab}", param="logit_bias")
        for name in ("allowed_token_ids", "stop_token_ids"):
            if any(not 0 <= token < vocab for token in getattr(request.params, name) or ()):
                raise RequestError(f"{name} must be in [0, {vocab})", param=name)

    def _call(self, verb: str | Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._idle:
            if not self._closed and self._thread.is_alive():
                self._loop.inbox.put(Command(verb, arguments, future))
                return future
        future.set_exception(EngineClosed("the engine is closed"))
        return future

    def _forget(self, stream: Stream) -> None:
        with self._idle:
            self._open.discard(stream)
            self._idle.notify_all()


def _live(config: EngineConfig, made: Future[Parts]) -> None:
    """The engine's thread. It also loads, because OpenMP keeps a pool of workers per thread that computes:
    with a second pool there are more workers than cores, and each then sleeps where it should spin."""
    try:
        parts = assemble(config)
    except BaseException as error:
        made.set_exception(error)
        return
    # What is loaded now lives as long as the process; the collector need not look at it every step.
    gc.collect()
    gc.freeze()
    # Nor at what many forks make in a step, nor at every branch there is, which takes tens of milliseconds:
    # what requests leave is freed without it.
    often, seldom, full = gc.get_threshold()
    gc.set_threshold(often and max(often, 3_000), seldom, max(full, 100))
    made.set_result(parts)
    parts.loop.run()
