"""`Store`: what callers asked to keep, by id, bounded by count and bytes; the least recently used goes first.

Records are JSON objects. With a file they are written through to SQLite and are there again after a
restart; memory stays the only place that is read, so no request waits for a disk to be read.
"""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dendrite_server.protocol.response import encode_json

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
        if self._disk:
            self._disk.write(self._kind, id, text)
        self._make_room()

    def remove(self, id: str) -> Record | None:
        """Take a record out; None if there was none."""
        record, size = self._records.pop(id, (None, 0))
        self.bytes -= size
        if self._disk and record is not None:
            self._disk.remove(self._kind, id)
        return record

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


class Disk:
    """A SQLite file behind the stores. A crash may cost the last few records, never the file."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute(_TABLE)
        self.close = weakref.finalize(self, self._database.close)
        self._clock = self._database.execute("SELECT coalesce(max(used), 0) FROM records").fetchone()[0]

    def load(self, kind: str) -> list[tuple[str, str]]:
        """Ids and texts of one kind, the oldest first."""
        query = "SELECT id, record FROM records WHERE kind = ? ORDER BY used"
        return self._database.execute(query, (kind,)).fetchall()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything written within is written at once."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def write(self, kind: str, id: str, text: str) -> None:
        self._clock += 1
        self._database.execute("REPLACE INTO records VALUES (?, ?, ?, ?)", (kind, id, self._clock, text))

    def remove(self, kind: str, id: str) -> None:
        self._database.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, id))
