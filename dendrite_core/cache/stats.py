"""`CacheStats`: the counters and gauges of a `TreeCache`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Pages now, branch records now, and events since the cache was made.

    pages_shared: more than one branch holds the page. pages_cached: no branch holds it, eviction may take
    it. copies: pages copied on write. joins: full pages given back for an equal one. parked: branches
    whose KV was given up for want of pages. evictions: pages taken from cached content.
    """

    pages_total: int
    pages_free: int
    pages_used: int
    pages_shared: int
    pages_cached: int
    branches: int
    nodes: int
    forks: int
    copies: int
    joins: int
    parked: int
    evictions: int
