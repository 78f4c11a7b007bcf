"""Charts of the records, as SVG that is equal to the byte for equal figures and versions of matplotlib.

The figures' digest lies in the file: a chart that no longer shows its record is found without drawing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report.results import Record, Row


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw of a record: column `y` over `x`, a line or a group of bars for each value of `by`."""

    kind: str
    x: str
    y: str
    by: str | None = None
    log_x: bool = False
    log_y: bool = False
    only: Callable[[Row], bool] = lambda row: True

    def series(self, record: Record) -> dict[str, list[tuple[Any, float]]]:
        """Points by series, in the order of the rows; empty where the record lacks a column."""
        found: dict[str, list[tuple[Any, float]]] = {}
        for row in filter(self.only, record.rows):
            if row.get(self.x) is not None and row.get(self.y) is not None:
                name = "" if self.by is None else f"{self.by} {row[self.by]}"
                found.setdefault(name, []).append((row[self.x], row[self.y]))
        return found


CHARTS: Mapping[str, Chart] = {
    "decode": Chart("bar", "prompt_length", "decode_tok_s", by="output_length"),
    "fork-overhead": Chart("line", "prefix_length", "fork_time_us", by="num_forks", log_x=True, log_y=True),
    "memory-profile": Chart(
        "bar", "scenario", "kv_mb", by="page_size", only=lambda row: not row["scenario"].startswith("depth")
    ),
    "serve": Chart(
        "line", "streams", "tokens_s", by="way", log_x=True, only=lambda row: row["loop"] == "closed"
    ),
    "vs": Chart("bar", "server", "tree_s"),
    "vs-hf": Chart("bar", "contestant", "branches_s"),
    "tree-vs-linear": Chart("bar", "way", "seconds"),
    "tot": Chart("bar", "method", "solved"),
    "steps": Chart("bar", "workload", "sync p50 ms"),
    "attention": Chart("bar", "workload", "us"),
}


def digest(record: Record) -> str | None:
    """What identifies the chart's figures; None where there is nothing to draw."""
    chart = CHARTS.get(record.benchmark)
    if chart is None or not (series := chart.series(record)):
        return None
    told = json.dumps([chart.kind, chart.x, chart.y, chart.by, chart.log_x, chart.log_y, series])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def is_current(record: Record, path: Path) -> bool:
    wanted = digest(record)
    return wanted is None or (path.is_file() and wanted in path.read_text())


def draw(record: Record, path: Path) -> None:
    """Write the record's chart."""
    # Imported here because only drawing needs it.
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    chart, identity = CHARTS[record.benchmark], digest(record)
    assert identity is not None
    settings = {"svg.hashsalt": "dendrite", "svg.fonttype": "none", "font.size": 9}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
        (_lines if chart.kind == "line" else _bars)(axes, chart.series(record))
        if chart.log_x:
            axes.set_xscale("log", base=2 if chart.x == "streams" else 10)
        if chart.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(xlabel=chart.x, ylabel=chart.y)
        axes.spines[["top", "right"]].set_visible(False)
        if chart.by is not None:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Description": identity})
        pyplot.close(figure)


def _lines(axes: Any, series: dict[str, list[tuple[Any, float]]]) -> None:
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)


def _bars(axes: Any, series: dict[str, list[tuple[Any, float]]]) -> None:
    places = list(dict.fromkeys(x for points in series.values() for x, _ in points))
    width = 0.8 / len(series)
    for number, (name, points) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * width
        axes.bar([places.index(x) + shift for x, _ in points], [y for _, y in points], width, label=name)
    axes.set_xticks(range(len(places)), [_folded(str(place)) for place in places])
    if len(places) > 6:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _folded(label: str) -> str:
    return label.replace(", ", ",\n") if len(label) > 12 else label
