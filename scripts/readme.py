"""Writes what README.md says was measured, and its chart, from the newest files under benchmarks/results/.

`python -m scripts.readme` from the root. A test compares both with what this makes; no figure is typed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README, CHART = ROOT / "README.md", ROOT / "docs" / "assets" / "readme.svg"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"
BRANCHES = (1, 16, 64, 256)


class Result:
    """The newest result of a question, whatever device it is of."""

    def __init__(self, name: str) -> None:
        self.path = max(RESULTS.glob(f"{name}-[0-9]*.json"))
        found = json.loads(self.path.read_text(encoding="utf-8"))
        self.settings: dict[str, Any] = found["settings"]
        self.rows: list[dict[str, Any]] = found["rows"]
        self.hardware: str = found["hardware"]

    def row(self, key: str, value: Any) -> dict[str, Any]:
        [row] = [row for row in self.rows if row[key] == value]
        return row

    def setting(self, ending: str) -> Any:
        """The setting whose name ends so."""
        [value] = [value for name, value in self.settings.items() if name.endswith(ending)]
        return value

    @property
    def link(self) -> str:
        return f"[file]({self.path.relative_to(ROOT)})"


def fork() -> Result:
    return Result("fork-overhead")


def against_transformers() -> Result:
    return Result("vs-hf")


def whole_tree() -> Result:
    return Result("tree-vs-linear")


def against_llama_cpp() -> Result:
    return Result("vs-embedded")


def steps() -> Result:
    return Result("steps")


def table() -> str:
    """What was measured, a line for each figure."""
    forks, theirs, gpu = fork(), against_transformers(), steps()
    tree, llama = whole_tree(), against_llama_cpp()
    asked, peer = tree.settings, llama.row("server", "llama.cpp")
    short, long = (forks.setting(f"us_at_{length}") for length in (1_000, 128_000))
    ours = theirs.row("contestant", "engine")
    one, many = gpu.row("workload", "prompt 4096"), gpu.row("workload", "64 x 8192")
    lines = [
        (
            f"a fork of a past of 1k tokens, and of 128k ({forks.hardware})",
            f"{short:.2f} us, {long:.2f} us; no KV is copied",
            forks,
        ),
        (
            f"16 branches of a 1,024-token past, 64 tokens each ({theirs.hardware})",
            f"{ours['branches_ratio']:.1f} times as fast as transformers' `generate`",
            theirs,
        ),
        (
            "one stream of the embedded model (the same run)",
            f"{ours['decode_tok_s']:.0f} tokens/s, {ours['decode_ratio']:.1f} times transformers",
            theirs,
        ),
        (
            f"a whole tree, {asked['branch_factor']} ways and {asked['tree_depth']} deep, "
            f"{asked['thought']} tokens a thought ({tree.hardware})",
            f"{tree.setting('vs_linear'):.0f} times as fast as computing every branch from its beginning, "
            f"{tree.setting('vs_prefix_cache'):.1f} times as a prefix cache",
            tree,
        ),
        (
            f"over HTTP beside llama.cpp's server, the same float32 weights ({llama.hardware})",
            f"a tree of 84 thoughts {peer['tree_ratio']:.1f} times as fast, 16 branches "
            f"{peer['branches_ratio']:.1f} times, one stream {peer['single_ratio']:.1f} times",
            llama,
        ),
        (
            f"one stream of Llama-3-8B's shape, bfloat16, past of 4,096 ({gpu.hardware})",
            f"{one['tokens/s']:.0f} tokens/s",
            gpu,
        ),
        (
            f"64 branches of one 8,192-token past, a step ({gpu.hardware})",
            f"{many['overlapped ms']:.1f} ms; one stream alone takes {one['overlapped ms']:.1f} ms",
            gpu,
        ),
    ]
    head = "| what | figure | |\n| --- | --- | --- |\n"
    return head + "".join(f"| {what} | {figure} | {result.link} |\n" for what, figure, result in lines)


def chart() -> str:
    """An SVG of two bar charts: the time of 16 branches, and tokens a second by number of branches."""
    theirs, gpu = against_transformers(), steps()
    names = {"transformers": "transformers", "engine": "Dendrite"}
    seconds = [(names[name], theirs.row("contestant", name)["branches_s"]) for name in names]
    workloads = {n: "prompt 4096" if n == 1 else f"{n} x 8192" for n in BRANCHES}
    speed = [(str(n), gpu.row("workload", workloads[n])["tokens/s"]) for n in BRANCHES]
    left = _bars(20, "16 branches of one 1,024-token past, seconds", theirs.hardware, seconds, "{:.2f} s")
    title, note = "Tokens/s by branches of one 8k past (1: 4k)", f"Llama-3-8B's shape, {gpu.hardware}"
    right = _bars(420, title, note, speed, "{:,.0f}")
    style = "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}.s{font-size:11px}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 190" width="820" height="190" role="img">\n'
        f"<title>Branches are cheap</title><style>{style}</style>\n"
        '<rect width="820" height="190" rx="6" fill="#ffffff"/>\n'
        f"{left}{right}</svg>\n"
    )


def _bars(x: int, title: str, note: str, values: list[tuple[str, float]], shown: str) -> str:
    most = max(value for _, value in values)
    parts = [f'<text class="t" x="{x}" y="26">{title}</text>\n<text class="s" x="{x}" y="43">{note}</text>\n']
    for at, (name, value) in enumerate(values):
        y, width = 56 + 32 * at, max(2, round(220 * value / most))
        colour = "#8c959f" if name == "transformers" else "#009485"
        parts.append(
            f'<text x="{x + 82}" y="{y + 17}" text-anchor="end">{name}</text>'
            f'<rect x="{x + 90}" y="{y}" width="{width}" height="24" rx="2" fill="{colour}"/>'
            f'<text x="{x + 96 + width}" y="{y + 17}">{shown.format(value)}</text>\n'
        )
    return "".join(parts)


def readme(text: str) -> str:
    """README.md with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"README.md has no {BEGIN.strip()} ... {END.strip()}"
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_text(chart(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
