# mypy: disable-error-code="no-untyped-call"
"""What of a device's memory is left for pages, found by running the largest step once at start.

The same run has every kernel compiled and every library initialised, so that no request waits for it.
"""

from __future__ import annotations

import gc
import itertools
import logging
from dataclasses import dataclass

import torch

from dendrite_core.batching.batch import Batch, Draw, Score
from dendrite_core.batching.scheduler import SCORED_AT_ONCE
from dendrite_core.cache.page_table import spans
from dendrite_core.config import EngineConfig, batch_tokens
from dendrite_core.forward.runner import build_runner, bytes_per_page
from dendrite_core.models.loading import LoadedModel
from dendrite_core.params import SamplingParams
from dendrite_core.sampling.logprobs import score
from dendrite_core.sampling.sampler import Sampler

log = logging.getLogger("dendrite.engine")

_GIB = 2**30
# What the allocator rounds up and leaves between blocks of ever different sizes, beyond what one run shows.
_SLACK = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a step."""

    page_size: int
    max_rows: int
    max_tokens: int
    max_length: int

    @classmethod
    def of(cls, asked: EngineConfig, device: str, longest: int) -> Limits:
        """Those of a model of at most `longest` positions."""
        return cls(
            page_size=asked.page_size,
            max_rows=asked.max_rows,
            max_tokens=batch_tokens(asked, device),
            max_length=asked.max_model_len or longest,
        )


def free_for_pages(model: LoadedModel, sampler: Sampler, limits: Limits, utilization: float) -> int:
    """Bytes of the device that KV may take, when all of the process takes `utilization` of its memory."""
    device = model.decoder.device
    step = _measured(model, sampler, limits)
    available, total = torch.cuda.mem_get_info(device)
    left = available - int(total * (1.0 - utilization)) - int(step * _SLACK)
    log.info(
        "%.2f of %.2f GiB taken by weights and context, %.2f GiB by the largest step, %.2f GiB are for KV",
        (total - available) / _GIB, total / _GIB, step / _GIB, max(left, 0) / _GIB,
    )  # fmt: skip
    return left


def _measured(model: LoadedModel, sampler: Sampler, limits: Limits) -> int:
    """Bytes that a runner takes besides weights and pages, over a store just large enough for one step."""
    device, batch = model.decoder.device, largest_step(limits, sampler.vocab_size)
    pages = batch.page_tables[-1][-1] + 1
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device) + pages * bytes_per_page(model, limits.page_size)
    runner = build_runner(model, pages, limits.page_size, attention_backend="tree", max_rows=limits.max_rows)
    runner.prepare(largest=True)
    logits = runner.run(batch)
    drawn, scored = sampler.launch(logits, batch.draws), score(logits, batch.scores)
    drawn.read()
    scored.read()
    taken = torch.cuda.max_memory_reserved(device) - before
    del runner, logits, drawn, scored
    gc.collect()
    torch.cuda.empty_cache()
    return max(taken, 0)


def largest_step(limits: Limits, vocab_size: int) -> Batch:
    """As many rows and tokens as there may be, few of them long; every kind of draw, and scores."""
    size, pages = limits.page_size, itertools.count()
    lengths = [1] * limits.max_rows
    left = limits.max_tokens - limits.max_rows
    for row in range(limits.max_rows):
        lengths[row] += max(0, min(left, limits.max_length - 1))
        left -= lengths[row] - 1
    tables = [list(itertools.islice(pages, -(-length // size))) for length in lengths]
    rows = list(enumerate(lengths))
    starts = [0, *itertools.accumulate(lengths)]
    kinds = (
        SamplingParams(),
        SamplingParams(top_k=50, top_p=0.9, min_p=0.01, logprobs=20),
        SamplingParams(repetition_penalty=1.1, logit_bias={0: 1.0}),
    )
    history = [token % vocab_size for token in range(64)]
    scored = min(SCORED_AT_ONCE, starts[-1])
    return Batch(
        token_ids=[0] * starts[-1],
        positions=[position for length in lengths for position in range(length)],
        slots=[tables[row][p // size] * size + p % size for row, length in rows for p in range(length)],
        row_starts=starts,
        kv_lengths=lengths,
        page_tables=[*tables],
        spans=spans(tables),
        copies=[],
        logits_at=[*(end - 1 for end in starts[1:]), *range(scored)],
        draws=[Draw(row, kinds[row % 3], 0, row, 1, history, history) for row, _ in rows],
        scores=[Score(len(rows) + at, 0, 20) for at in range(scored)],
    )
