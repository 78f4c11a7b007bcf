"""What the engine counts, and all its counters and gauges at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from dendrite_core.batching.scheduler import Scheduler
from dendrite_core.cache.stats import CacheStats
from dendrite_core.engine.measures.requests import RequestStats
from dendrite_core.engine.messages import EngineStats


@dataclass(slots=True)
class Counters:
    """Events of the loop since it was made; see `EngineStats`."""

    steps: int = 0
    steps_ahead: int = 0
    cached_tokens: int = 0
    queried_tokens: int = 0
    generated_tokens: int = 0


def engine_stats(
    cache: CacheStats, scheduler: Scheduler, counters: Counters, requests: RequestStats
) -> EngineStats:
    """One snapshot."""
    return EngineStats(
        pages_total=cache.pages_total,
        pages_free=cache.pages_free,
        pages_used=cache.pages_used,
        pages_shared=cache.pages_shared,
        pages_cached=cache.pages_cached,
        page_size=scheduler.page_size,
        running=len(scheduler.running),
        waiting=scheduler.waiting,
        branches=cache.branches,
        forks=cache.forks,
        cow_copies=cache.copies,
        evictions=cache.evictions,
        preemptions=scheduler.preemptions,
        prefill_tokens=scheduler.prefill_tokens,
        cached_tokens=counters.cached_tokens,
        generated_tokens=counters.generated_tokens,
        steps=counters.steps,
        steps_ahead=counters.steps_ahead,
        queried_tokens=counters.queried_tokens,
        nodes=cache.nodes,
        parked=cache.parked,
        requests=requests,
    )
