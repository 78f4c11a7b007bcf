"""Options that do not exist: what SGLang and llama.cpp call ours, else the nearest name there is.

A name of theirs is told, not taken, because its value may mean something else there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches

_MODEL, _BATCH = "--model, a folder of safetensors or a hub id", "--max-num-batched-tokens"
_REQUESTS = "a field of requests"

# SGLang's names first, then those of llama.cpp's server.
OTHER_NAMES = {
    "--model-path": _MODEL,
    "--context-length": "--max-model-len",
    "--mem-fraction-static": "--gpu-memory-utilization",
    "--max-total-tokens": "--num-pages, times --page-size",
    "--max-running-requests": "--max-num-seqs",
    "--max-queued-requests": "--max-waiting",
    "--chunked-prefill-size": _BATCH,
    "--max-prefill-tokens": _BATCH,
    "--enable-deterministic-inference": "--deterministic",
    "--log-requests": "--access-log",
    "-m": _MODEL,
    "-hf": _MODEL,
    "-hfr": _MODEL,
    "--hf-repo": _MODEL,
    "-a": "--served-model-name",
    "--alias": "--served-model-name",
    "-c": "--max-model-len",
    "--ctx-size": "--max-model-len",
    "-np": "--max-num-seqs",
    "--parallel": "--max-num-seqs",
    "-b": _BATCH,
    "--batch-size": _BATCH,
    "-t": "--threads",
    "-dev": "--device",
    "-ngl": "--device cuda, where all layers are",
    "--gpu-layers": "--device cuda, where all layers are",
    "--n-gpu-layers": "--device cuda, where all layers are",
    "--chat-template-file": "--chat-template",
    "--chat-template-kwargs": _REQUESTS,
    "--reasoning-effort": _REQUESTS,
    "--cors-origins": "--allowed-origins",
    "--slot-save-path": "--store-path",
    "--sse-ping-interval": "--keep-alive",
    "-v": "--log-level",
    "--verbose": "--log-level",
    "--predict": f"'max_tokens', {_REQUESTS}",
    "--n-predict": f"'max_tokens', {_REQUESTS}",
    "--temp": f"'temperature', {_REQUESTS}",
    "--temperature": _REQUESTS,
    "--top-k": _REQUESTS,
    "--top-p": _REQUESTS,
    "--min-p": _REQUESTS,
    "--repeat-penalty": f"'repetition_penalty', {_REQUESTS}",
}


def refuse_other_names(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """End with what it is here, before argparse takes `-hf` for `-h` and its value for the model."""
    for word in words:
        name = word.partition("=")[0]
        if name in OTHER_NAMES:
            parser.error(f"there is no {name}; here it is {OTHER_NAMES[name]}")


def refuse_unknown(parser: argparse.ArgumentParser, known: Sequence[str], unknown: Sequence[str]) -> None:
    """End with what may have been meant by words that argparse made nothing of, if there are any."""
    if not unknown:
        return
    names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    if not names:
        parser.error(f"one model is served; what is {' '.join(unknown)}?")
    parser.error("; ".join(_meant(name, known) for name in names))


def _meant(name: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(name, known, n=1, cutoff=0.75)
    return f"there is no {name}" + (f"; perhaps {nearest[0]} was meant" if nearest else "")
