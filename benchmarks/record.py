"""What every benchmark prints: a table for people, then one JSON line that says where it was measured."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Where it is another folder: see scripts/gpu.py.
RESULTS = Path(os.environ.get("DENDRITE_RESULTS") or Path(__file__).parent / "results")
_PACKAGES = ("torch", "transformers", "flashinfer-python", "triton", "llguidance", "tiktoken", "tokenizers")

Row = Mapping[str, Any]


def emit(
    name: str,
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    *,
    save: bool = False,
    variant: str | None = None,
) -> None:
    """Print rows as a table and as one JSON line; with `save`, keep the line under results/.

    A `variant`, such as the model's name, keeps apart what one question found in several settings.
    """
    record = {"benchmark": name, **facts(), "settings": dict(settings), "rows": [dict(row) for row in rows]}
    print(table(rows))
    line = json.dumps(record)
    print(line)
    if save:
        RESULTS.mkdir(exist_ok=True)
        told = [name, *([_slug(variant)] if variant else []), record["date"][:10], record["device_tag"]]
        (RESULTS / f"{'-'.join(told)}.json").write_text(line + "\n")


def facts() -> dict[str, Any]:
    """Hardware, versions and commit."""
    gpu = _gpu()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": gpu or _cpu(),
        "device_tag": _tag(gpu) if gpu else "cpu",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned columns under their keys; the first row says which."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    cells = [columns, *([shown(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    padded = ([c.rjust(w) for c, w in zip(line, widths, strict=True)] for line in cells)
    return "\n".join(map("  ".join, padded))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * percent / 100)]


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9.]+", "_", Path(name).name.lower())


def shown(value: Any) -> str:
    """A value as people read it: four figures of a float, a dash for nothing."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _gpu() -> str | None:
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


def _tag(gpu: str) -> str:
    """The card's short name, as h100 for NVIDIA H100 80GB HBM3: figures of one are not another's."""
    found = re.search(r"\b[A-Z]{1,3}\d{2,4}\w*", gpu)
    return found[0].lower() if found else "gpu"


def _cpu() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
        return f"{model}, {sum(line.startswith('processor') for line in lines)} cores"
    return model


def _commit() -> str:
    if told := os.environ.get("DENDRITE_COMMIT"):
        return told
    here = Path(__file__).parent
    try:
        head = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
        return subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
