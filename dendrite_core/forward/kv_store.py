"""The memory behind the pages: K and V of every layer, addressed by slot (page * page_size + offset).

A slot is one token. Heads are the outer dimension, so that pages that follow each other are one
`[heads, tokens, head_dim]` view of the store without a copy, and every head streams through memory.

    data[layer]:  [2 * kv_heads, pages * stride, head_dim]     K heads first, then V heads
                  stride = page_size, or page_size + 2 with canaries: guard | page | guard
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CANARY = -7.0e29

Writer = Callable[[int, Tensor], Tensor]
"""`writer(layer, kv [T, 2 * kv_heads, head_dim])` stores one layer's new K and V."""


def bytes_per_page(num_layers: int, page_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of K and V that one page takes over all layers."""
    return num_layers * 2 * kv_heads * page_size * head_dim * dtype.itemsize


def most_pages(page_size: int, head_dim: int, canaries: bool) -> int:
    """How many pages a store on a GPU can have: its kernels count the numbers of one head in 32 bits."""
    return (2**31 - 1) // ((page_size + 2 * canaries) * head_dim)


class KVStore:
    """K and V of `num_pages` pages. Zeroed at start: what is read behind a mask has to be finite."""

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        page_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        canaries: bool = False,
    ) -> None:
        self.num_layers = num_layers
        self.num_pages = num_pages
        self.page_size = page_size
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.canaries = canaries
        stride = page_size + 2 if canaries else page_size
        shape = (num_layers, 2 * kv_heads, num_pages * stride, head_dim)
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.layers = list(self.data.unbind(0))
        self._paged = self.data.view(num_layers, 2 * kv_heads, num_pages, stride, head_dim)
        # float16 does not reach as far as the others.
        self._canary = max(CANARY, torch.finfo(dtype).min)
        if canaries:
            self._guards().fill_(self._canary)

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        return self.data.device

    def places(self, slots: Tensor) -> Tensor:
        """Where slots lie along the token dimension of `data`; the same numbers unless there are guards."""
        if not self.canaries:
            return slots
        return slots + 2 * slots.div(self.page_size, rounding_mode="floor") + 1

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v `[T, kv_heads, head_dim]` at slots `[T]`."""
        self.layers[layer].index_copy_(1, self.places(slots), joined(k, v).transpose(0, 1))

    def writer(self, slots: Sequence[int], on_device: Tensor) -> Writer:
        """What stores `[T, 2 * kv_heads, head_dim]` at the same slots in any layer."""
        if self.canaries or not consecutive(slots):
            places = self.places(on_device)
            return lambda layer, kv: self.layers[layer].index_copy_(1, places, kv.transpose(0, 1))
        targets = self.run(slots[0], len(slots)).transpose(1, 2).unbind(0)
        return lambda layer, kv: targets[layer].copy_(kv)

    def run(self, slot: int, tokens: int) -> Tensor:
        """K and V `[layers, 2 * kv_heads, tokens, head_dim]` of consecutive slots, as a view."""
        assert not self.canaries, "guards lie between the pages"
        return self.data.narrow(2, slot, tokens)

    def gather(self, slots: Tensor) -> Tensor:
        """A copy `[layers, 2 * kv_heads, n, head_dim]` of any slots `[n]`, of all layers at once."""
        return self.data.index_select(2, self.places(slots))

    def gather_layer(self, layer: int, slots: Tensor) -> Tensor:
        """A copy `[2 * kv_heads, n, head_dim]` of any slots `[n]`."""
        return self.layers[layer].index_select(1, self.places(slots))

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy source to destination pages in every layer; sources are read before anything is written."""
        if not pairs:
            return
        index = torch.tensor(pairs, pin_memory=self.device.type == "cuda").to(self.device, non_blocking=True)
        self._paged.index_copy_(2, index[:, 1], self._paged.index_select(2, index[:, 0]))

    def check_canaries(self) -> None:
        """Raise if anything was written outside a page's payload, naming the page."""
        assert self.canaries, "the store was built without canaries"
        broken = (self._guards() != self._guards().new_tensor(self._canary)).any(dim=(-1, -2)).nonzero()
        if len(broken):
            layer, head, page = broken[0].tolist()
            raise RuntimeError(f"write beyond page {page} (layer {layer}, head {head % self.kv_heads})")

    def _guards(self) -> Tensor:
        """The first and last place of every page `[layers, 2 * kv_heads, pages, 2, head_dim]`."""
        return self._paged[:, :, :, :: self.page_size + 1]


def consecutive(slots: Sequence[int]) -> bool:
    """Whether every slot is the one after the slot before it."""
    first, last = slots[0], slots[-1]
    return last - first == len(slots) - 1 and list(slots) == list(range(first, last + 1))


def joined(k: Tensor, v: Tensor) -> Tensor:
    """k and v `[T, heads, d]` as one `[T, 2 * heads, d]`; without a copy where v follows k in memory."""
    tokens, heads, width = k.shape
    if (
        k.stride() == v.stride()
        and k.stride(2) == 1
        and (k.stride(1) == width or heads == 1)
        and v.data_ptr() - k.data_ptr() == heads * width * k.itemsize
    ):
        return k.as_strided((tokens, 2 * heads, width), (k.stride(0), width, 1))
    return torch.cat((k, v), dim=1)
