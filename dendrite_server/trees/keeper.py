"""`Keeper`: writes trees down as they grow, so that a branch is there again after a restart, under its name.

A thread of its own takes what has changed from the engine, at most once in `PACE` seconds, and writes it to
the same SQLite file as kept responses. What a crash of the process can cost is what the last `PACE` brought.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
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
        self._news = threading.Event()
        self._closing = threading.Event()
        self._writing = threading.Lock()
        self._unwritten: Entries | None = None
        self._is_failing = False
        self.restored = self._restore()
        self._journal: Journal = engine.keep(self._news.set).result()
        self._thread = threading.Thread(target=self._follow, name="dendrite-keeper", daemon=True)
        self._thread.start()

    def _restore(self) -> int:
        found = [_saved(json.loads(text)) for _, text in self._disk.load(self._kind)]
        count = self._engine.restore(found).result() if found else 0
        if count:
            log.info("%d branches of an earlier run are there again", count)
        return count

    def _follow(self) -> None:
        while not self._closing.is_set():
            self._news.wait()
            self._news.clear()
            try:
                self._try_to_flush()
            except DendriteError:
                return  # The engine has ended.
            self._closing.wait(PACE)

    def _try_to_flush(self) -> None:
        """As `flush`; what a disk does not take is tried again."""
        try:
            self.flush()
        except sqlite3.Error as error:
            if not self._is_failing:
                log.error("trees are not kept until the disk takes them again: %s", error)
            self._is_failing = True
            self._news.set()
        else:
            self._is_failing = False

    def flush(self) -> None:
        """Write what has changed until now. Raises `EngineClosed`, `sqlite3.Error`."""
        with self._writing:
            more = True
            while more:
                # Taken only once from the engine, which then holds it to be written.
                entries = self._unwritten = self._unwritten or self._engine.entries(self._journal).result()
                texts = {one.name: encode_json(_record(one)) for one in entries.saved}
                self._disk.apply(self._kind, {**texts, **dict.fromkeys(entries.gone)})
                self._unwritten = None
                more = entries.more

    def close(self) -> None:
        """Write what is left, if the engine is still there to tell, and stop. May be repeated."""
        self._closing.set()
        self._news.set()
        self._thread.join()
        try:
            self._try_to_flush()
        except DendriteError:
            return


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
