"""The report says what the results say, and notices when it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import QUESTIONS
from benchmarks.record import RESULTS
from benchmarks.report.charts import draw, is_current
from benchmarks.report.findings import finding
from benchmarks.report.page import page
from benchmarks.report.results import newest
from benchmarks.report.write import DOCS, out_of_date, write

FORKS = [
    {"prefix_length": 1000, "num_forks": 1, "fork_time_us": 0.5},
    {"prefix_length": 9000, "num_forks": 1, "fork_time_us": 0.75},
    {"prefix_length": 9000, "num_forks": 8, "fork_time_us": 4.0},
]


def save(folder: Path, day: str, rows: list[dict[str, Any]], name: str = "fork-overhead") -> None:
    record = {
        "benchmark": name,
        "date": f"{day}T01:02:03+00:00",
        "commit": "abc1234",
        "hardware": "a machine",
        "device_tag": "cpu",
        "versions": {"torch": "2"},
        "settings": {"flatness": 1.5},
        "rows": rows,
    }
    (folder / f"{name}-{day}-cpu.json").write_text(json.dumps(record))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    save(folder, "2026-01-01", [{"prefix_length": 1, "num_forks": 1, "fork_time_us": 99.0}])
    save(folder, "2026-02-01", FORKS)
    return folder


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "assets").mkdir(parents=True)
    return tmp_path / "docs"


def test_the_page_and_its_charts_are_what_the_results_say() -> None:
    assert out_of_date(RESULTS, DOCS) == []


def test_the_newest_result_counts(results: Path) -> None:
    (record,) = newest(results)
    assert record.date.startswith("2026-02-01")
    assert finding(record) == (
        "A fork takes 0.5 to 0.75 us at pasts of 1,000 to 9,000 tokens; longest over shortest 1.50;"
        " 8 in one call 4 us."
    )


def test_a_page_has_every_figure_and_the_questions_own_doubts(results: Path) -> None:
    text = page(newest(results), QUESTIONS)
    assert "| 9000 | 8 | 4 |" in text
    assert "commit abc1234" in text
    assert "**Doubt it.** Doubt it on a busy core" in text


def test_a_result_that_no_finding_or_chart_knows_is_shown_all_the_same(results: Path) -> None:
    save(results, "2026-02-02", [{"a": 1, "b": None}], name="something-new")
    save(results, "2026-02-02", [{"old": 1}], name="decode")
    text = page(newest(results), QUESTIONS)
    assert "| a | b |\n| --- | --- |\n| 1 | - |" in text
    assert "| old |" in text


def test_what_changed_since_is_found(results: Path, docs: Path) -> None:
    write(results, docs, charts=True)
    assert out_of_date(results, docs) == []
    save(results, "2026-03-01", FORKS[:2])
    assert out_of_date(results, docs) == [
        "benchmarks.md does not say what the results say",
        "assets/benchmark-fork-overhead-cpu.svg does not show fork-overhead-cpu",
    ]
    write(results, docs, charts=False)
    assert len(out_of_date(results, docs)) == 1
    (docs / "benchmarks.md").write_text((docs / "benchmarks.md").read_text().replace("0.75", "0.57"))
    assert len(out_of_date(results, docs)) == 2


def test_charts_of_equal_figures_are_equal_to_the_byte(results: Path, tmp_path: Path) -> None:
    (record,) = newest(results)
    first, again = tmp_path / "a" / "one.svg", tmp_path / "a" / "two.svg"
    draw(record, first)
    draw(record, again)
    assert first.read_bytes() == again.read_bytes()
    assert is_current(record, first)
