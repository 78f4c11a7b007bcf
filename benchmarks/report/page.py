"""docs/benchmarks.md: a summary, a section for each record, how it was measured, and why to doubt it.

What a section says of its method and its doubts is its question's own docstring; nothing is typed twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from benchmarks.record import shown
from benchmarks.report.charts import digest
from benchmarks.report.findings import finding
from benchmarks.report.results import Record

HEAD = """\
# Benchmarks

Written by `dendrite-bench report` from the files under `benchmarks/results/`: no figure is typed by hand, and
a test fails when a result and this page disagree. Run them yourself: `dendrite-bench --help` lists the
questions, `dendrite-bench all --quick` asks all that need no GPU, in ten minutes on two cores.
"""

METHOD = """\
## Methodology

- Every question runs in fresh processes, one for each contestant, prompt length or page size; the first round
  only warms up.
- Figures are medians of several trials, `p99` the 99th percentile of all samples together (nearest rank).
- Contestants take turns within a round, and ratios are taken within the round, so that what disturbs one
  disturbs all.
- Prompts are random token ids that no cache has seen, unless finding them cached is the question.
- Servers are asked over HTTP from another process on the same machine; times are the caller's, with sending.
- A result keeps its hardware, versions, commit and settings; of each question the newest result is shown.

## Why you should doubt it

- CPU figures come from two cores of a shared machine. Compare what stands in one table, and not with figures
  from elsewhere.
- The embedded model has 8.7 M parameters. What bookkeeping and HTTP cost shows more than with a real model;
  what attention over a shared past saves shows less.
- Shapes have random weights. They draw random tokens, which no n-gram or cache can guess, and their answers
  never end by themselves.
- We chose the questions. Many tenants on many GPUs, where vLLM and SGLang are at home, are not among them.
- Whoever builds one contestant knows its switches best. Each section says how the others were run.
"""


def page(records: Sequence[Record], questions: Mapping[str, tuple[str, str]]) -> str:
    """The whole page. `questions` are the commands: module and help by name."""
    ordered = sorted(records, key=lambda record: _place(record, questions))
    parts = [HEAD, _summary(ordered)]
    described: set[str] = set()
    for record in ordered:
        name = _question(record, questions)
        parts.append("\n".join(_section(record, questions.get(name), first=name not in described)))
        described.add(name)
    return "\n".join([*parts, METHOD])


def chart_name(record: Record) -> str:
    return f"benchmark-{record.key}.svg"


def _summary(records: Sequence[Record]) -> str:
    lines = ["## Summary", "", "| question | finding | on |", "| --- | --- | --- |"]
    for record in records:
        if sentence := finding(record):
            where = f"{record.hardware}, {record.date[:10]}"
            lines.append(f"| [{_title(record)}](#{_anchor(record)}) | {sentence} | {where} |")
    return "\n".join([*lines, ""])


def _section(record: Record, question: tuple[str, str] | None, *, first: bool) -> Iterator[str]:
    yield f"## {_title(record)}"
    yield ""
    if question is not None:
        yield f"{question[1]} {finding(record) or ''}".rstrip()
        yield ""
    if digest(record) is not None:
        yield f"![{_title(record)}](assets/{chart_name(record)})"
        yield ""
    columns = list(dict.fromkeys(column for row in record.rows for column in row))
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join(['---'] * len(columns))} |"
    for row in record.rows:
        yield f"| {' | '.join(_cell(row.get(column)) for column in columns)} |"
    yield ""
    yield f"Measured on {record.hardware}, {record.date[:10]}, commit {record.commit}."
    yield f"Versions: {_pairs(record.versions)}."
    yield f"Settings: {_pairs(record.settings)}."
    yield ""
    if question is not None and first:
        for paragraph in _told(question[0]):
            yield paragraph
            yield ""


def _told(module: str) -> list[str]:
    """How a question measures, and what of it to doubt: its docstring but for the first line."""
    text = " ".join((import_module(module).__doc__ or "").partition("\n\n")[2].split())
    # Docstrings begin their doubts with one of these words.
    found = re.search(r"(?:^|(?<=\. ))(?:Doubt|Why you should doubt)", text)
    cut = found.start() if found else len(text)
    named = {"How.": text[:cut].strip(), "Doubt it.": text[cut:]}
    return [f"**{name}** {part}" for name, part in named.items() if part]


def _cell(value: object) -> str:
    return shown(value).replace("|", "\\|")


def _pairs(values: Mapping[str, object]) -> str:
    told = (f"{name} {shown(value)}" for name, value in values.items() if value is not None)
    return ", ".join(told)


def _title(record: Record) -> str:
    """The question and its variant, and the device where it is no CPU."""
    name = record.key.removesuffix(f"-{record.device}")
    return name if record.device == "cpu" else f"{name} ({record.device.upper()})"


def _anchor(record: Record) -> str:
    return re.sub(r"[^\w\- ]", "", _title(record).lower()).replace(" ", "-")


def _question(record: Record, questions: Mapping[str, tuple[str, str]]) -> str:
    """The command that made the record: of its own name, or the longest that its name begins with."""
    fitting = [
        name for name in questions if record.benchmark == name or record.benchmark.startswith(f"{name}-")
    ]
    return max(fitting, key=len, default=record.benchmark)


def _place(record: Record, questions: Mapping[str, tuple[str, str]]) -> tuple[int, str]:
    names = list(questions)
    name = _question(record, questions)
    return (names.index(name) if name in names else len(names), record.key)
