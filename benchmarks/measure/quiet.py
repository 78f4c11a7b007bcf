"""Whether others use this machine: a busy neighbour is not part of what is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
QUIET = 0.15


def cores_busy(seconds: float = 1.0) -> float | None:
    """Cores that anything on the machine keeps busy over the next `seconds`; None where nothing says so."""
    before, begin = _busy_seconds(), time.monotonic()
    time.sleep(seconds)
    after = _busy_seconds()
    if before is None or after is None:
        return None
    return (after - before) / (time.monotonic() - begin)


def wait_until_quiet(patience: float) -> float | None:
    """Wait, at most `patience` seconds, until less than 0.15 of a core is busy; how many cores were, last."""
    end = time.monotonic() + patience
    while True:
        busy = cores_busy()
        if busy is None or busy < QUIET or time.monotonic() > end:
            return busy


def _busy_seconds() -> float | None:
    if not _STAT.is_file():
        return None
    # user nice system idle iowait irq softirq steal
    ticks = [int(field) for field in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
