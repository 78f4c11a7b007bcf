"""What a schema costs: tokens per second held to it against free ones, and what a mask takes.

One engine, one stream, the same number of tokens, free and held in turns, and the overhead taken within each
turn. As requests are, forced tokens are skipped over, which a free text cannot do; `drawn` asks for logprobs,
with which every token is drawn, so that what remains is masks and nothing else. Doubt it on a busy machine:
masks are computed on a second core while the model runs, and where there is none they are waited for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

from benchmarks.record import emit, percentile
from dendrite_core import Engine, GrammarSpec, SamplingParams

EMBEDDED = Path(__file__).parent.parent / "dendrite_core" / "embedded"
PROMPT = "People as JSON: "
# Long enough for any output length here, and of what answers are made of: texts, numbers, choices.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["friend", "colleague", "stranger"]},
        "known": {"type": "boolean"},
    },
    "required": ["name", "age", "kind", "known"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 500}
KINDS = {"as asked": None, "drawn": 0}


def measure(engine: Engine, schema: str, length: int, trials: int, logprobs: int | None) -> dict[str, Any]:
    """Tokens per second free and held to `schema`, the median overhead, and the times of masks."""
    free = SamplingParams(temperature=1, seed=1, max_tokens=length, ignore_eos=True, logprobs=logprobs)
    held = SamplingParams(
        temperature=1,
        seed=1,
        max_tokens=length,
        logprobs=logprobs,
        grammar=GrammarSpec(kind="json_schema", source=schema),
    )
    for params in (free, held):
        _rate(engine, params)
    with _timed_masks(engine) as masks:
        turns = [(_rate(engine, free), _rate(engine, held)) for _ in range(trials)]
    return {
        "unconstrained_tok_s": median(one for one, _ in turns),
        "constrained_tok_s": median(other for _, other in turns),
        "overhead_pct": 100 * (median(one / other for one, other in turns) - 1),
        "mask_time_us_avg": fmean(masks),
        "mask_time_us_p50": percentile(masks, 50),
        "mask_time_us_p99": percentile(masks, 99),
        "masks_per_token": len(masks) / (trials * length),
    }


def _rate(engine: Engine, params: SamplingParams) -> float:
    begin = perf_counter()
    made = engine.generate(PROMPT, params)
    return len(made.choices[0].token_ids) / (perf_counter() - begin)


@contextmanager
def _timed_masks(engine: Engine) -> Iterator[list[float]]:
    """Microseconds of every step's masks, as the engine's own thread for them sees it."""
    times: list[float] = []
    compute: Callable[..., Any] = engine.grammars.masks

    def timed(states: Any) -> Any:
        begin = perf_counter()
        found = compute(states)
        times.append((perf_counter() - begin) * 1e6)
        return found

    vars(engine.grammars)["masks"] = timed
    try:
        yield times
    finally:
        del vars(engine.grammars)["masks"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=str(EMBEDDED), help="folder or hub id (default: embedded)")
    parser.add_argument("--schema", type=Path, help="JSON Schema of a file (default: a long list of people)")
    parser.add_argument("--output-length", type=int, default=256, help="tokens of one output")
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> None:
    """Print one row for forced tokens skipped, as requests have it, and one for every token drawn."""
    schema = args.schema.read_text(encoding="utf-8") if args.schema else json.dumps(SCHEMA)
    settings = {"model": Path(args.model).name, "output_length": args.output_length, "trials": args.trials}
    with Engine.from_pretrained(args.model, threads=args.threads) as engine:
        rows = [
            {"tokens": kind, **measure(engine, schema, args.output_length, args.trials, logprobs)}
            for kind, logprobs in KINDS.items()
        ]
    emit("constraint-overhead", {**settings, "threads": args.threads}, rows, save=args.save)
