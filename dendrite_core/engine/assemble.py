"""From an `EngineConfig` to the parts of a running engine: model, KV store, cache, loop.

The one place where the torch-free half and the arithmetic half are put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dendrite_core.batching.scheduler import Scheduler
from dendrite_core.cache.tree import TreeCache
from dendrite_core.config import EngineConfig, Facts, ResolvedConfig, resolve
from dendrite_core.engine.branches import BranchBook
from dendrite_core.engine.loop import EngineLoop
from dendrite_core.engine.measures.memory import Limits, free_for_pages
from dendrite_core.engine.starting.ahead import compiling_ahead
from dendrite_core.errors import ModelLoadError, RequestError
from dendrite_core.forward.kv_store import bytes_per_page, most_pages
from dendrite_core.forward.runner import build_runner
from dendrite_core.models.loading import LoadedModel, load_model
from dendrite_core.sampling.sampler import Sampler
from dendrite_core.sampling.sampler_cuda import CudaSampler
from dendrite_core.text.chat_template import ChatTemplate
from dendrite_core.text.grammar import GrammarCompiler
from dendrite_core.text.tokenizer import Tokenizer, byte_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Parts:
    """What an `Engine` is made of."""

    config: ResolvedConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    loop: EngineLoop


def assemble(asked: EngineConfig) -> Parts:
    """Load, measure, resolve, build. Raises `ModelLoadError`, `RequestError`."""
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = _dtype(asked.dtype, device)
    with (
        compiling_ahead(asked, dtype, device) as ahead,
        _fitting(asked.model, "take a smaller model or dtype"),
    ):
        model = load_model(
            asked.model,
            dtype,
            device,
            max_length=asked.max_model_len,
            measured=not asked.deterministic,
            before_weights=ahead,
        )
    sampler = _sampler(model.config.vocab_size, device)
    with _fitting("the largest step", "lower max_batch_tokens (--max-num-batched-tokens)"):
        config = resolve(asked, _facts(asked, model, sampler, dtype, device))
    tokenizer, chat_template = _text(model, asked.chat_template)
    cache = TreeCache(config.num_pages, config.page_size, config.max_branches)
    with _fitting(f"KV of {config.num_pages} pages", "lower num_pages or kv_cache_bytes"):
        runner = build_runner(
            model,
            config.num_pages,
            config.page_size,
            canaries=config.canaries,
            deterministic=config.deterministic,
            attention_backend=config.attention_backend,
            max_rows=config.max_rows,
        )
        runner.prepare()
    loop = EngineLoop(
        BranchBook(cache, tokenizer, config),
        Scheduler(cache, config),
        runner,
        sampler,
        GrammarCompiler(tokenizer, config.vocab_size),
        overlap=config.overlap,
    )
    return Parts(config, tokenizer, chat_template, loop)


@contextmanager
def _fitting(what: str, remedy: str) -> Iterator[None]:
    """Say what did not fit into the device's memory, and what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        room = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
        raise ModelLoadError(
            f"{what} do not fit on {torch.cuda.get_device_name()}: {room}; {remedy}"
        ) from error


def _dtype(asked: str | None, device: str) -> torch.dtype:
    name = asked or ("float32" if device == "cpu" else "bfloat16")
    if name not in DTYPES:
        raise RequestError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}", param="dtype")
    return DTYPES[name]


def _text(model: LoadedModel, template: str | None) -> tuple[Tokenizer, ChatTemplate]:
    own = ChatTemplate({}) if model.folder is None else ChatTemplate.from_pretrained(model.folder)
    tokenizer = byte_tokenizer() if model.folder is None else Tokenizer.from_pretrained(model.folder)
    return tokenizer, own if template is None else own.replaced_by(template)


def _facts(
    asked: EngineConfig, model: LoadedModel, sampler: Sampler, dtype: torch.dtype, device: str
) -> Facts:
    shape = model.config
    free = None
    if device != "cpu":
        limits = Limits.of(asked, device, shape.max_position)
        free = free_for_pages(model, sampler, limits, asked.gpu_memory_utilization)
    return Facts(
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        decoder=model.source,
        vocab_size=shape.vocab_size,
        max_position=shape.max_position,
        bytes_per_page=bytes_per_page(
            shape.num_layers, asked.page_size, shape.num_kv_heads, shape.head_dim, _kv_dtype(dtype, device)
        ),
        free_bytes=free,
        most_pages=(None if device == "cpu" else most_pages(asked.page_size, shape.head_dim, asked.canaries)),
    )


def _kv_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    # On a CPU float16 is a format of weights only: activations and KV stay float32.
    return torch.float32 if device == "cpu" and dtype == torch.float16 else dtype


def _sampler(vocab_size: int, device: str) -> Sampler:
    return Sampler(vocab_size, device) if device == "cpu" else CudaSampler(vocab_size, device)
