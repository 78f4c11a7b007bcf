# mypy: disable-error-code="no-untyped-call"
"""What of a device's memory is left for pages, found by running the largest step once at start.

The same run has every kernel compiled and every library initialised, so that no request waits for it.
"""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass

import torch

from dendrite_core.batching.batch import Batch, Draw, Score
from dendrite_core.batching.scheduler import SCORED_AT_ONCE
from dendrite_core.cache.page_table import spans
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
    device, pages = model.decoder.device, _pages(limits)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device) + pages * bytes_per_page(model, limits.page_size)
    runner = build_runner(model, pages, limits.page_size)
    runner.prepare(largest=True)
    batch = largest_step(limits, sampler.vocab_size)
    logits = runner.run(batch)
    drawn, scored = sampler.launch(logits, batch.draws), score(logits, batch.scores)
    drawn.read()
    scored.read()
    taken = torch.cuda.max_memory_reserved(device) - before
    del runner, logits, drawn, scored
    gc.collect()
    torch.cuda.empty_cache()
    return max(taken, 0)


def _pages(limits: Limits) -> int:
    return limits.max_rows + -(-limits.max_tokens // limits.page_size)


def largest_step(limits: Limits, vocab_size: int) -> Batch:
    """As many rows as there may be, one of them with all other tokens; every kind of draw, and scores."""
    rows, size = limits.max_rows, limits.page_size
    long = max(1, limits.max_tokens - rows + 1)
    first = -(-long // size)
    tables = [list(range(first)), *([page] for page in range(first, first + rows - 1))]
    kinds = (
        SamplingParams(),
        SamplingParams(top_k=50, top_p=0.9, min_p=0.01, logprobs=20),
        SamplingParams(repetition_penalty=1.1, logit_bias={0: 1.0}),
    )
    history = [token % vocab_size for token in range(64)]
    scored = min(SCORED_AT_ONCE, long)
    return Batch(
        token_ids=[0] * (long + rows - 1),
        positions=[*range(long), *[0] * (rows - 1)],
        slots=[*range(long), *(table[0] * size for table in tables[1:])],
        row_starts=[0, *range(long, long + rows)],
        kv_lengths=[long, *[1] * (rows - 1)],
        page_tables=[*tables],
        spans=spans(tables),
        copies=[],
        logits_at=[*range(long - 1, long + rows - 1), *range(scored)],
        draws=[Draw(row, kinds[row % 3], 0, row, 1, history, history) for row in range(rows)],
        scores=[Score(rows + row, 0, 20) for row in range(scored)],
    )
