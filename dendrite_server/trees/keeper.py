"""`Keeper`: writes trees down as they grow, so that a branch is there again after a restart, under its name.

A thread of its own takes what has changed from the engine, at most once in `PACE` seconds, and writes it to
the same SQLite file as kept responses. What a crash of the process can cost is what the last `PACE` brought.
"""

from __future__ import annotations

import json
import logging
import threading
from hashlib import sha256
from typing import Any

from dendrite_core.engine.engine import Engine
from dendrite_core.engine.keeping.journal import Entries, Journal, Saved
from dendrite_core.errors import DendriteError, EngineClosed
from dendrite_server.protocol.response import encode_json
from dendrite_server.store import Disk

log = logging.getLogger("dendrite.server")

PACE = 1.0
# Seconds: how long the engine may be busy with one step before it is asked whether it lives.
_LOOK_AGAIN = 5.0


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
                self.flush()
            except DendriteError:
                return  # The engine has ended.
            self._closing.wait(PACE)

    def flush(self) -> None:
        """Write what has changed until now. Raises `EngineClosed`."""
        with self._writing:
            more = True
            while more:
                entries = self._entries()
                texts = [(one.name, encode_json(_record(one))) for one in entries.saved]
                with self._disk.together():
                    for name, text in texts:
                        self._disk.write(self._kind, name, text)
                    for name in entries.gone:
                        self._disk.remove(self._kind, name)
                more = entries.more

    def _entries(self) -> Entries:
        """Raises `EngineClosed`, also where the engine ends without an answer."""
        asked = self._engine.entries(self._journal)
        while True:
            try:
                return asked.result(_LOOK_AGAIN)
            except TimeoutError:
                if not self._engine.alive:
                    raise EngineClosed("the engine is closed") from None

    def close(self) -> None:
        """Write what is left, if the engine is still there to tell, and stop. May be repeated."""
        self._closing.set()
        self._news.set()
        self._thread.join()
        try:
            self.flush()
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
    facts = (engine.config.model, engine.config.vocab_size, engine.tokenizer.eos_ids)
    return sha256(repr(facts).encode()).hexdigest()[:12]
