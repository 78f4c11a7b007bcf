"""One sentence for each benchmark, with figures taken from its rows: the summary's lines.

A benchmark without a function here is in the report all the same, with its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.record import shown
from benchmarks.report.results import Record


def finding(record: Record) -> str | None:
    """The sentence, or None where there is none, also for a record whose columns are of an older kind."""
    try:
        return FINDINGS[record.benchmark](record) if record.benchmark in FINDINGS else None
    except KeyError:
        return None


def _decode(record: Record) -> str:
    best = max(record.rows, key=lambda row: float(row["decode_tok_s"]))
    share = best.get("bandwidth_share_pct")
    limit = "" if share is None else f", {share:.0f} % of what reading the same bytes allows"
    where = f"a prompt of {best['prompt_length']}"
    return (
        f"{_model(record)}: one stream decodes {shown(best['decode_tok_s'])} tokens/s after {where}{limit}."
    )


def _fork(record: Record) -> str:
    single = [
        row["fork_time_us"] for row in record.rows if row["num_forks"] == min(_each(record, "num_forks"))
    ]
    lengths = _each(record, "prefix_length")
    flat = record.settings.get("flatness")
    told = "" if flat is None else f"; longest over shortest {flat:.2f}"
    many = max(record.rows, key=lambda row: (row["num_forks"], row["prefix_length"]))
    return (
        f"A fork takes {_range(single)} us at pasts of {min(lengths):,} to {max(lengths):,} tokens{told};"
        f" {many['num_forks']} in one call {shown(many['fork_time_us'])} us."
    )


def _memory(record: Record) -> str:
    """Which page size takes least, over the scenarios that branch."""
    trees = [row for row in record.rows if not row["scenario"].startswith("depth")]
    sizes = sorted({row["page_size"] for row in trees})
    total = {size: sum(row["kv_mb"] for row in trees if row["page_size"] == size) for size in sizes}
    best = min(sizes, key=lambda size: total[size])
    others = ", ".join(
        f"{total[size] / total[best]:.1f} times as much with {size}" for size in sizes if size != best
    )
    most = max(trees, key=lambda row: float(row["sharing_ratio"]))
    return (
        f"Trees take least KV memory in pages of {best} tokens ({others}); sharing saves up to"
        f" {most['sharing_ratio']:.0f} times the pages ({most['scenario']})."
    )


def _serve(record: Record) -> str:
    closed = [row for row in record.rows if row["way"] == "HTTP" and row["loop"] == "closed"]
    best = max(closed, key=lambda row: float(row["tokens_s"]))
    share = best["server_share_pct"]
    told = "" if share is None else f", {share:.0f} % below the same engine without HTTP"
    return f"{shown(best['tokens_s'])} tokens/s over HTTP at {best['streams']} streams{told}."


def _vs(record: Record) -> str:
    """How many times the first server's time or rate the others have."""
    first, *others = record.rows
    works = [name.removesuffix("_ratio") for name in first if name.endswith("_ratio")]
    sentences = []
    for row in others:
        ratios = [(work, row[f"{work}_ratio"]) for work in works if row[f"{work}_ratio"] is not None]
        told = ", ".join(f"{work} {_times(ratio)}" for work, ratio in ratios)
        sentences.append(f"{first['server']} against {row['server']}: {told}.")
    return " ".join(sentences)


def _vs_hf(record: Record) -> str:
    engine = next(row for row in record.rows if row["contestant"] == "engine")
    return (
        f"{record.settings['model']}: against transformers' `generate`, one stream"
        f" {_times(engine['decode_ratio'])}, 16 branches {_times(engine['branches_ratio'])}."
    )


def _quality(record: Record) -> str:
    rows = {row["measure"]: row for row in record.rows}
    perplexity, top = rows["perplexity"], rows["top1 the same, %"]
    solved = [
        f"{name.split(', ')[1]} {row['here']:.1f} % (card {row['reference']:.1f} %)"
        for name, row in rows.items()
        if name.startswith("game of 24")
    ]
    apart = abs(perplexity["difference_pct"])
    return (
        f"Perplexity within {apart:.2g} % of transformers over {perplexity['of']:,} tokens, the likeliest"
        f" token the same at {top['here']:.2f} % of them"
        + (f"; through the server, held-out games solved: {', '.join(solved)}." if solved else ".")
    )


def _tree_vs_linear(record: Record) -> str:
    told = ", ".join(f"{row['times_slower']:.1f} times by {row['way']}" for row in record.rows[1:])
    return f"The same tree takes longer without forks: {told}."


def _tot(record: Record) -> str:
    told = ", ".join(f"{row['method']} {100 * row['solved']:.0f} %" for row in record.rows)
    return f"Held-out games solved at {record.settings['budget']} tokens each: {told}."


def _steps(record: Record) -> str:
    rows = {row["workload"]: row for row in record.rows}
    one, many = rows["prompt 512"], rows["64 x 8192"]
    return (
        f"Llama-3-8B's shape: one stream {shown(one['tokens/s'])} tokens/s, a step of 64 branches of an"
        f" 8k past {shown(many['sync p50 ms'])} ms."
    )


FINDINGS: Mapping[str, Callable[[Record], str]] = {
    "decode": _decode,
    "fork-overhead": _fork,
    "memory-profile": _memory,
    "serve": _serve,
    "vs": _vs,
    "vs-hf": _vs_hf,
    "quality": _quality,
    "tree-vs-linear": _tree_vs_linear,
    "tot": _tot,
    "steps": _steps,
}


def _each(record: Record, column: str) -> list[Any]:
    return [row[column] for row in record.rows]


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{shown(ordered[0])} to {shown(ordered[-1])}"


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times as fast" if ratio >= 1 else f"{1 / ratio:.2g} times as slow"


def _model(record: Record) -> str:
    return str(record.settings.get("model") or record.settings.get("served_model") or "a server")
