"""The memory behind the pages: K and V of every layer, addressed by slot (page * page_size + offset).

A slot is one token. Heads are the outer dimension, so that pages that follow each other are one
`[heads, tokens, head_dim]` view of the store without a copy, and every head streams through memory.

    data[layer]:  [2 * kv_heads, pages * stride, head_dim]     K heads first, then V heads
                  stride = page_size, or page_size + 2 with canaries: guard | page | guard
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CANARY = -7.0e29


def bytes_per_page(num_layers: int, page_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of K and V that one page takes over all layers."""
    return num_layers * 2 * kv_heads * page_size * head_dim * dtype.itemsize


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
        if canaries:
            self._guards().fill_(CANARY)

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
        self.write_at(layer, self.places(slots), joined(k, v))

    def write_at(self, layer: int, places: Tensor, kv: Tensor) -> None:
        """Store `[T, 2 * kv_heads, head_dim]` at places (see `places`) `[T]`."""
        self.layers[layer].index_copy_(1, places, kv.transpose(0, 1))

    def run(self, layer: int, first_page: int, tokens: int) -> Tensor:
        """K and V `[2 * kv_heads, tokens, head_dim]` of consecutive pages; a view unless there are guards."""
        pages = -(-tokens // self.page_size)
        if not self.canaries:
            start = first_page * self.page_size
            return self.layers[layer][:, start : start + tokens]
        found = self._paged[layer, :, first_page : first_page + pages, 1:-1]
        return found.flatten(1, 2)[:, :tokens]

    def gather(self, slots: Tensor) -> Tensor:
        """A copy `[layers, 2 * kv_heads, n, head_dim]` of any slots `[n]`, for all layers at once."""
        return self.data.index_select(2, self.places(slots))

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy source to destination pages in every layer; sources are read before anything is written."""
        if not pairs:
            return
        index = torch.tensor(pairs, device=self.device)
        self._paged.index_copy_(2, index[:, 1], self._paged.index_select(2, index[:, 0]))

    def check_canaries(self) -> None:
        """Raise if anything was written outside a page's payload, naming the page."""
        assert self.canaries, "the store was built without canaries"
        broken = (self._guards() != self._guards().new_tensor(CANARY)).any(dim=(-1, -2)).nonzero()
        if len(broken):
            layer, head, page = broken[0].tolist()
            raise RuntimeError(f"write beyond page {page} (layer {layer}, head {head % self.kv_heads})")

    def _guards(self) -> Tensor:
        """The first and last place of every page `[layers, 2 * kv_heads, pages, 2, head_dim]`."""
        return self._paged[:, :, :, :: self.page_size + 1]


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
