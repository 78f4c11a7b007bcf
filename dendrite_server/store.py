"""`Store`: what callers asked to keep, by id, bounded by count and bytes; the least recently used goes first.

Records are JSON objects. With a file they are written through to SQLite and are there again after a
restart; memory stays the only place that is read, so no request waits for a disk to be read.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dendrite_core.errors import RequestError
from dendrite_server.protocol.response import encode_json

log = logging.getLogger("dendrite.server")

Record = dict[str, Any]

_TABLE = """CREATE TABLE IF NOT EXISTS records
    (kind TEXT, id TEXT, used INTEGER, record TEXT, PRIMARY KEY (kind, id))"""


class Store:
    """Records of one kind. A record is replaced by `put`, never changed in place.

    `shared` are fields whose contents other records hold anyway; in memory they weigh nothing.
    """

    def __init__(
        self,
        kind: str,
        *,
        max_count: int,
        max_bytes: int,
        disk: Disk | None = None,
        shared: frozenset[str] = frozenset(),
    ) -> None:
        self._kind = kind
        self._shared = shared
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._disk = disk
        self._records: OrderedDict[str, tuple[Record, int]] = OrderedDict()
        # What the file does not know yet: texts to write, None where a record is to be struck out.
        self._unsaved: dict[str, str | None] = {}
        self._is_failing = False
        self.bytes = 0
        for id, text in disk.load(kind) if disk else ():
            self._keep(id, json.loads(text), len(text))
        self._make_room()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, id: str) -> Record | None:
        """The record, which thereby counts as used."""
        if id not in self._records:
            return None
        self._records.move_to_end(id)
        return self._records[id][0]

    def put(self, id: str, record: Record) -> None:
        weighed = {name: value for name, value in record.items() if name not in self._shared}
        text = encode_json(record if self._disk else weighed)
        self._keep(id, record, len(text))
        self._save(id, text)
        self._make_room()

    def remove(self, id: str) -> Record | None:
        """Take a record out; None if there was none."""
        record, size = self._records.pop(id, (None, 0))
        self.bytes -= size
        if record is not None:
            self._save(id, None)
        return record

    def _save(self, id: str, text: str | None) -> None:
        """Write through; what a disk does not take is tried again with the next change."""
        if self._disk is None:
            return
        self._unsaved[id] = text
        try:
            self._disk.apply(self._kind, self._unsaved)
        except sqlite3.Error as error:
            if not self._is_failing:
                log.error(
                    "each %s is kept in memory only until the disk takes them again: %s", self._kind, error
                )
            self._is_failing = True
        else:
            self._unsaved, self._is_failing = {}, False

    def __iter__(self) -> Iterator[Record]:
        return iter([record for record, _ in self._records.values()])

    def _keep(self, id: str, record: Record, size: int) -> None:
        self.bytes += size - self._records.pop(id, (None, 0))[1]
        self._records[id] = (record, size)

    def _make_room(self) -> None:
        """The newest record stays even if it is too large alone: somebody was just told its id."""
        while len(self._records) > 1 and (
            len(self._records) > self._max_count or self.bytes > self._max_bytes
        ):
            self.remove(next(iter(self._records)))


@contextmanager
def held(path: str | None) -> Iterator[None]:
    """Keep other processes off a store's file: what two write, each would lose of the other.

    The lock lies beside the file and goes with the process, however that ends. Raises `RequestError`.
    """
    if path is None:
        yield
        return
    try:
        lock = open(f"{path}.lock", "a+")  # noqa: SIM115 (closed below: errors of its body are not of opening it)
    except OSError as error:
        raise RequestError(f"store_path {path!r} cannot be used: {error}", param="store_path") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            message = f"store_path {path!r} is used by process {lock.read()}"
            raise RequestError(message, param="store_path") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Disk:
    """A SQLite file behind the stores. A crash may cost the last few records, never the file.

    Raises `RequestError` where there can be no such file.
    """

    def __init__(self, path: str) -> None:
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=OFF")
            self._database.execute(_TABLE)
        except sqlite3.Error as error:
            raise RequestError(f"store_path {path!r} cannot be used: {error}", param="store_path") from error
        self.close = weakref.finalize(self, self._database.close)
        self._clock = self._database.execute("SELECT coalesce(max(used), 0) FROM records").fetchone()[0]

    def load(self, kind: str) -> list[tuple[str, str]]:
        """Ids and texts of one kind, the oldest first."""
        query = "SELECT id, record FROM records WHERE kind = ? ORDER BY used"
        return self._database.execute(query, (kind,)).fetchall()

    def apply(self, kind: str, texts: Mapping[str, str | None]) -> None:
        """Write records, and strike out those without a text: all or, with a `sqlite3.Error`, none."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for id, text in texts.items():
                self._put(kind, id, text)
            self._database.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself where the disk is full.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _put(self, kind: str, id: str, text: str | None) -> None:
        if text is None:
            self._database.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, id))
        else:
            self._clock += 1
            self._database.execute("REPLACE INTO records VALUES (?, ?, ?, ?)", (kind, id, self._clock, text))
