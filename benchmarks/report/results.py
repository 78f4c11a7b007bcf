"""The records that a report is made of: of each question, variant and kind of device the newest one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One result file. `key` is its name without the date: what newer ones replace. `device` ends it."""

    key: str
    device: str
    benchmark: str
    date: str
    commit: str
    hardware: str
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, path: Path) -> Record:
        told = json.loads(path.read_text())
        day = told["date"][:10]
        fields = ("benchmark", "date", "commit", "hardware", "versions", "settings", "rows")
        key = path.stem.replace(f"-{day}", "")
        return cls(key, told["device_tag"], *(told[name] for name in fields))


def newest(folder: Path) -> list[Record]:
    """One record for each key, in the order of their keys."""
    records: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        record = Record.read(path)
        known = records.get(record.key)
        if known is None or record.date > known.date:
            records[record.key] = record
    return [records[key] for key in sorted(records)]
