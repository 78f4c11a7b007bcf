"""Engine settings: asked by a person, resolved once against facts, then frozen.

`EngineConfig` is what is asked (None means decide for me); `resolve` turns it into `ResolvedConfig` from
the facts of the model and the machine. Nothing after that reads an environment or guesses again.
"""

from __future__ import annotations

from dataclasses import dataclass

from dendrite_core.errors import ModelLoadError, RequestError

PAGE_SIZES = (8, 16, 32)
ATTENTION_BACKENDS = ("auto", "tree", "flashinfer")
DEFAULT_CPU_KV_BYTES = 1 << 30


_COUNTS = (
    "num_pages",
    "kv_cache_bytes",
    "max_model_len",
    "max_rows",
    "max_batch_tokens",
    "max_waiting",
    "max_children",
    "max_branches",
    "threads",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What is asked of an engine.

    `model` is a folder, a hub id or `shape:NAME`. `chat_template` is jinja in place of the model's own.
    `kv_cache_bytes` bounds the paged KV store (or give `num_pages`). `max_rows` bounds branches decoded
    together, `max_batch_tokens` the new tokens of one step, `max_waiting` the queue, `max_branches` the
    branch records kept. `overlap` launches a step before the tokens of the one before are read, which
    pays where another device computes. `canaries` guards every page. `deterministic` makes every logit
    independent of the batch it is computed in, at the cost of speed. `attention_backend` forces a GPU's
    attention; auto takes what is measured to be faster.
    """

    model: str
    dtype: str | None = None
    chat_template: str | None = None
    device: str | None = None
    page_size: int = 16
    num_pages: int | None = None
    kv_cache_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    max_rows: int = 256
    max_batch_tokens: int | None = None
    max_waiting: int = 1024
    max_children: int = 256
    max_branches: int = 65536
    threads: int | None = None
    overlap: bool | None = None
    canaries: bool = False
    deterministic: bool = False
    attention_backend: str = "auto"

    def __post_init__(self) -> None:
        if self.page_size not in PAGE_SIZES:
            raise RequestError(f"page_size must be one of {PAGE_SIZES}", param="page_size")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1", param=name)
        if self.attention_backend not in ATTENTION_BACKENDS:
            raise RequestError(
                f"attention_backend must be one of {ATTENTION_BACKENDS}", param="attention_backend"
            )
        if self.deterministic and self.attention_backend == "flashinfer":
            raise RequestError("attention_backend flashinfer is not deterministic", param="attention_backend")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise RequestError("gpu_memory_utilization must be in (0, 1]", param="gpu_memory_utilization")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known once the weights are loaded: bytes are per page of KV, and free for KV after all else.

    most_pages: how many pages the kernels can address, where they have a limit.
    """

    device: str
    dtype: str
    decoder: str
    vocab_size: int
    max_position: int
    bytes_per_page: int
    free_bytes: int | None
    most_pages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig:
    """The settings an engine runs with; every value is final."""

    model: str
    device: str
    dtype: str
    decoder: str
    vocab_size: int
    page_size: int
    num_pages: int
    bytes_per_page: int
    max_model_len: int
    max_rows: int
    max_batch_tokens: int
    max_waiting: int
    max_children: int
    max_branches: int
    overlap: bool
    canaries: bool
    deterministic: bool
    attention_backend: str

    def summary(self) -> str:
        """One line for the start-up log."""
        mib = self.num_pages * self.bytes_per_page / 2**20
        return (
            f"{self.model} [{self.decoder}, {self.dtype}, {self.device}"
            f"{', deterministic' if self.deterministic else ''}] "
            f"context {self.max_model_len}, "
            f"{self.num_pages} pages x {self.page_size} tokens ({mib:.0f} MiB KV)"
        )


def resolve(asked: EngineConfig, facts: Facts) -> ResolvedConfig:
    """Decide what was left open. Raises `ModelLoadError` when the model cannot fit the KV memory given, and
    `RequestError` for what this device cannot do.
    """
    if facts.device == "cpu" and asked.attention_backend != "auto":
        raise RequestError(
            f"attention_backend {asked.attention_backend} needs a CUDA device; on a CPU leave it at auto",
            param="attention_backend",
        )
    num_pages = asked.num_pages or _pages_for(asked, facts)
    if facts.most_pages is not None and num_pages > facts.most_pages:
        raise RequestError(
            f"num_pages must be at most {facts.most_pages} for this model on {facts.device}, got {num_pages}",
            param="num_pages",
        )
    capacity = num_pages * asked.page_size
    max_model_len = asked.max_model_len or min(facts.max_position, capacity)
    if max_model_len > facts.max_position:
        raise ModelLoadError(f"max_model_len {max_model_len} exceeds the model's {facts.max_position}")
    if max_model_len > capacity:
        raise ModelLoadError(
            f"max_model_len {max_model_len} needs {-(-max_model_len // asked.page_size)} pages, "
            f"but the KV cache has {num_pages}; give it more memory or lower max_model_len"
        )
    return ResolvedConfig(
        model=asked.model,
        device=facts.device,
        dtype=facts.dtype,
        decoder=facts.decoder,
        vocab_size=facts.vocab_size,
        page_size=asked.page_size,
        num_pages=num_pages,
        bytes_per_page=facts.bytes_per_page,
        max_model_len=max_model_len,
        max_rows=asked.max_rows,
        max_batch_tokens=batch_tokens(asked, facts.device),
        max_waiting=asked.max_waiting,
        max_children=asked.max_children,
        max_branches=asked.max_branches,
        overlap=facts.device != "cpu" if asked.overlap is None else asked.overlap,
        canaries=asked.canaries,
        deterministic=asked.deterministic,
        attention_backend=asked.attention_backend,
    )


def batch_tokens(asked: EngineConfig, device: str) -> int:
    """The most new tokens of one step."""
    return asked.max_batch_tokens or (512 if device == "cpu" else 8192)


def _pages_for(asked: EngineConfig, facts: Facts) -> int:
    measured = DEFAULT_CPU_KV_BYTES if facts.free_bytes is None else facts.free_bytes
    free = asked.kv_cache_bytes or measured
    pages = free // facts.bytes_per_page
    if pages < 2:
        remedy = "give a larger kv_cache_bytes"
        if facts.free_bytes is not None and not asked.kv_cache_bytes:
            remedy = (
                f"raise gpu_memory_utilization (now {asked.gpu_memory_utilization:g}), "
                "lower max_batch_tokens (--max-num-batched-tokens) or max_rows (--max-num-seqs)"
            )
        raise ModelLoadError(
            f"{max(free, 0) / 2**20:.0f} MiB are left for KV, which holds {max(pages, 0)} pages of "
            f"{facts.bytes_per_page / 2**20:.2f} MiB; {remedy}, or take a smaller model"
        )
    return int(pages if facts.most_pages is None else min(pages, facts.most_pages))
