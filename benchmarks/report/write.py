"""The report as a command: write the page, draw its charts, or check that both say what the results say."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.__main__ import QUESTIONS
from benchmarks.record import RESULTS
from benchmarks.report.charts import digest, draw, is_current
from benchmarks.report.page import chart_name, page
from benchmarks.report.results import newest

DOCS = Path(__file__).parents[2] / "docs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--charts", action="store_true", help="draw the charts again too (needs matplotlib)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if something is out of date"
    )


def run(args: argparse.Namespace) -> None:
    """Write docs/benchmarks.md, or with `--check` exit with 1 and say what disagrees."""
    if args.check:
        if wrong := out_of_date(RESULTS, DOCS):
            raise SystemExit("\n".join([*wrong, "dendrite-bench report --charts writes them anew"]))
        return
    write(RESULTS, DOCS, charts=args.charts)


def write(results: Path, docs: Path, *, charts: bool) -> None:
    records = newest(results)
    (docs / "benchmarks.md").write_text(page(records, QUESTIONS))
    if charts:
        wanted = {chart_name(record) for record in records if digest(record)}
        for old in (docs / "assets").glob("benchmark-*.svg"):
            if old.name not in wanted:
                old.unlink()
        for record in records:
            path = docs / "assets" / chart_name(record)
            if not is_current(record, path):
                draw(record, path)


def out_of_date(results: Path, docs: Path) -> list[str]:
    """What does not say what the results say, one line each."""
    records, written = newest(results), docs / "benchmarks.md"
    wrong = []
    if not written.is_file() or written.read_text() != page(records, QUESTIONS):
        wrong.append(f"{written.name} does not say what the results say")
    for record in records:
        if not is_current(record, docs / "assets" / chart_name(record)):
            wrong.append(f"assets/{chart_name(record)} does not show {record.key}")
    return wrong
