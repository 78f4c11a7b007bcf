"""Dendrite's engine: an LLM whose KV cache is a tree. Start with `Engine.from_pretrained`.

Examples in docstrings stand on the public names and on `engine`, the embedded model's.
"""

import gc
import os

# Read by torch at its first allocation: a step streams through all weights and much KV, and on 4 KiB pages
# the page-table walks can cost a third of it. Most kernels give huge pages only to those who ask.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# What imports make stays. Looking for garbage in it, again and again, is an eighth of their time.
_collects = gc.isenabled()
gc.disable()
try:
    from dendrite_core.config import EngineConfig
    from dendrite_core.engine.completion import Completion, CompletionChoice
    from dendrite_core.engine.engine import Engine
    from dendrite_core.engine.messages import BranchInfo, EngineStats, Progress, Request, Started, Usage
    from dendrite_core.engine.stream import Stream
    from dendrite_core.errors import DendriteError, RequestError
    from dendrite_core.params import GrammarSpec, SamplingParams
finally:
    if _collects:
        gc.freeze()
        gc.enable()

__all__ = [
    "BranchInfo",
    "Completion",
    "CompletionChoice",
    "DendriteError",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "GrammarSpec",
    "Progress",
    "Request",
    "RequestError",
    "SamplingParams",
    "Started",
    "Stream",
    "Usage",
]
