"""Runs one batch: page copies, plan, decoder, and the logits that are wanted.

Also where a device's store and attention are chosen, so that nothing above this package knows the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dendrite_core.batching.batch import Batch
from dendrite_core.forward import kv_store
from dendrite_core.forward.attention import AttentionBackend, AttentionShape
from dendrite_core.forward.attention_torch import TreeAttention
from dendrite_core.forward.batch import ForwardBatch, feed
from dendrite_core.forward.kv_store import KVStore
from dendrite_core.forward.threads import Threads
from dendrite_core.models.cuda.forward import FusedAttend
from dendrite_core.models.decoder import Attend
from dendrite_core.models.loading import LoadedModel


class Runner:
    """A model, its KV and the attention over it, as one function from `Batch` to logits."""

    def __init__(self, model: LoadedModel, store: KVStore, attention: AttentionBackend) -> None:
        self.decoder = model.decoder
        self.store = store
        self.attention = attention
        # What rotates and stores by itself is handed over whole, for the decoder to see that.
        self.attend: Attend = attention if isinstance(attention, FusedAttend) else attention.attend
        self.threads = Threads(torch.get_num_threads() if store.device.type == "cpu" else 1)

    def prepare(self, *, largest: bool = False) -> None:
        """Do at start what the first steps would otherwise wait for, or only the `largest` part of it."""

    @torch.inference_mode()
    def run(self, batch: Batch, tokens: Tensor | None = None) -> Tensor:
        """Float32 logits `[len(batch.logits_at), vocab]`.

        `tokens` are the draws of the step before, on the device, where the batch has `unread` token ids.
        """
        with self.threads.step(len(batch.token_ids)):
            return self._run(batch, tokens)

    def _run(self, batch: Batch, tokens: Tensor | None) -> Tensor:
        forward = ForwardBatch.build(batch, self.store.device)
        if tokens is not None:
            feed(forward.token_ids, batch, tokens)
        self.store.copy_pages(batch.copies)
        self.attention.plan(forward)
        hidden = self.decoder(forward.token_ids, forward.positions, self.attend)
        if forward.logits_at is not None:
            hidden = hidden.index_select(0, forward.logits_at)
        return self.decoder.logits(hidden)


def bytes_per_page(model: LoadedModel, page_size: int) -> int:
    """Bytes of K and V that one page of this model takes."""
    config = model.config
    return kv_store.bytes_per_page(
        config.num_layers, page_size, config.num_kv_heads, config.head_dim, model.decoder.dtype
    )


def build_runner(
    model: LoadedModel,
    num_pages: int,
    page_size: int,
    *,
    canaries: bool = False,
    deterministic: bool = False,
    attention_backend: str = "auto",
    max_rows: int = 256,
) -> Runner:
    """The runner of a model on its own device, with KV for `num_pages` pages.

    `attention_backend` is that of a CUDA device: tree, flashinfer, or auto for the faster one. Steps of up to
    `max_rows` tokens are replayed there from graphs.
    """
    config, decoder = model.config, model.decoder
    store = KVStore(
        config.num_layers,
        num_pages,
        page_size,
        config.num_kv_heads,
        config.head_dim,
        decoder.dtype,
        decoder.device,
        canaries,
    )
    shape = AttentionShape(
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        decoder.attention_scale,
        tuple(decoder.layer_windows),
    )
    if deterministic:
        # Here because it leans on this module.
        from dendrite_core.forward.deterministic.runner import fixed_runner

        return fixed_runner(model, store, shape)
    if decoder.device.type == "cpu":
        return Runner(model, store, TreeAttention(shape, store))
    # Here because it leans on this module, and on Triton, which is there only where CUDA is.
    from dendrite_core.forward.cuda.cuda_graph import cuda_runner

    return cuda_runner(model, store, shape, attention_backend, max_rows)
