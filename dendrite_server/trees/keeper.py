"""`Keeper`: writes trees down as they grow, so that a branch is there again after a restart, under its name.

A thread of its own takes what has changed from the engine and writes it to the same SQLite file as kept
responses: what has ended as soon as somebody waits to be told of it, what is being generated every `PACE`
seconds. So a crash of the process costs nothing that was answered.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from hashlib import sha256
from typing import Any

from dendrite_core.engine.engine import Engine
from dendrite_core.engine.keeping.journal import Entries, Journal, Saved
from dendrite_core.errors import DendriteError
from dendrite_core.text.files import checkpoint_digest
from dendrite_server.protocol.response import encode_json
from dendrite_server.store import Disk

log = logging.getLogger("dendrite.server")

PACE = 1.0


class Keeper:
    """Restores the trees of this model that a file holds, and keeps the file up to date from then on."""

    def __init__(self, engine: Engine, path: str) -> None:
        self._engine = engine
        self._disk = Disk(path)
        # Token ids mean nothing to another model.
        self._kind = f"branch {_digest(engine)}"
        self._bell = threading.Condition()
        self._is_dirty = self._is_closing = False
        self._waiting: list[Future[None]] = []
        self._writing = threading.Lock()
        self._unwritten: Entries | None = None
        self._is_failing = False
        self.restored = self._restore()
        self._journal: Journal = engine.keep(self._ring).result()
        self._thread = threading.Thread(target=self._follow, name="dendrite-keeper", daemon=True)
        self._thread.start()

    def _restore(self) -> int:
        found = [_saved(json.loads(text)) for _, text in self._disk.load(self._kind)]
        count = self._engine.restore(found).result() if found else 0
        if count:
            log.info("%d branches of an earlier run are there again", count)
        return count

    def written(self) -> Future[None]:
        """Done once all that has ended by now is in the file, or the disk did not take it."""
        future: Future[None] = Future()
        with self._bell:
            if not self._is_closing:
                self._waiting.append(future)
                self._bell.notify()
                return future
        future.set_result(None)
        return future

    def _ring(self) -> None:
        with self._bell:
            self._is_dirty = True
            self._bell.notify()

    def _follow(self) -> None:
        due, waiting = 0.0, list[Future[None]]()
        try:
            while not self._is_closing:
                waiting = self._wait(due)
                is_due = time.monotonic() >= due
                self._try_to_flush(also_running=is_due)
                if is_due:
                    due = time.monotonic() + PACE
                _tell(waiting)
        except DendriteError:
            pass  # The engine has ended.
        finally:
            # However this ends, nobody waits for it for ever.
            with self._bell:
                self._is_closing = True
                _tell(waiting + self._waiting)

    def _wait(self, due: float) -> list[Future[None]]:
        """Sleep until somebody waits, or `due` if there is something to write; who waits."""
        with self._bell:
            while not (self._waiting or self._is_closing):
                left = due - time.monotonic() if self._is_dirty else None
                if left is not None and left <= 0:
                    break
                self._bell.wait(left)
            waiting, self._waiting = self._waiting, []
            return waiting

    def _try_to_flush(self, also_running: bool) -> None:
        """As `flush`; what a disk does not take is tried again."""
        try:
            self.flush(also_running)
        except sqlite3.Error as error:
            if not self._is_failing:
                log.error("trees are not kept until the disk takes them again: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False

    def flush(self, also_running: bool = True) -> None:
        """Write what has changed until now. Raises `EngineClosed`, `sqlite3.Error`."""
        with self._writing:
            # Before it is asked: what changes from then on rings again.
            self._is_dirty = self._is_dirty and not also_running
            try:
                if self._unwritten is not None:
                    self._write(self._unwritten)
                more = True
                while more:
                    entries = self._engine.entries(self._journal, also_running=also_running).result()
                    self._write(entries)
                    more = entries.more
            except sqlite3.Error:
                self._is_dirty = True
                raise

    def _write(self, entries: Entries) -> None:
        """What the disk does not take is held here, as the engine tells it only once."""
        self._unwritten = entries
        texts = {one.name: encode_json(_record(one)) for one in entries.saved}
        self._disk.apply(self._kind, {**texts, **dict.fromkeys(entries.gone)})
        self._unwritten = None

    def close(self) -> None:
        """Write what is left, if the engine is still there to tell, and stop. May be repeated."""
        with self._bell:
            self._is_closing = True
            self._bell.notify()
        self._thread.join()
        try:
            self._try_to_flush(also_running=True)
        except DendriteError:
            return


def _tell(waiting: Iterable[Future[None]]) -> None:
    for future in waiting:
        if not future.done() and future.set_running_or_notify_cancel():
            future.set_result(None)


def _record(saved: Saved) -> dict[str, Any]:
    return {
        "name": saved.name,
        "parent": saved.parent,
        "start": saved.start,
        "tokens": list(saved.tokens),
        "namespace": list(saved.namespace),
        "listed": saved.listed,
        "facts": saved.facts,
    }


def _saved(record: dict[str, Any]) -> Saved:
    return Saved(**{**record, "tokens": tuple(record["tokens"]), "namespace": tuple(record["namespace"])})


def _digest(engine: Engine) -> str:
    facts = (checkpoint_digest(engine.config.model), engine.config.vocab_size, engine.tokenizer.eos_ids)
    return sha256(repr(facts).encode()).hexdigest()[:12]
