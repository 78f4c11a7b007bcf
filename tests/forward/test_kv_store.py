"""The store: writes land in their slots, pages copy as a whole, canaries see what leaves a page."""

from __future__ import annotations

import pytest
import torch

from dendrite_core.forward.kv_store import KVStore, bytes_per_page, joined

LAYERS, PAGES, HEADS, WIDTH = 2, 6, 2, 4


def make(page_size: int = 8, canaries: bool = False, dtype: torch.dtype = torch.float32) -> KVStore:
    return KVStore(LAYERS, PAGES, page_size, HEADS, WIDTH, dtype, canaries=canaries)


def fill(store: KVStore) -> torch.Tensor:
    """Write every slot of every layer; K of slot s is s in layer 0, and so on."""
    slots = torch.arange(PAGES * store.page_size)
    for layer in range(LAYERS):
        k = (slots + 1000 * layer).float()[:, None, None].expand(-1, HEADS, WIDTH).to(store.dtype)
        store.write(layer, slots, k, -k)
    return slots


def read(store: KVStore, layer: int, slot: int) -> torch.Tensor:
    """K and V heads of one slot `[2 * heads, width]`."""
    return store.gather(torch.tensor([slot]))[layer, :, 0]


@pytest.mark.parametrize("canaries", [False, True])
@pytest.mark.parametrize("page_size", [8, 16, 32])
def test_a_run_of_pages_reads_back_what_was_written(page_size: int, canaries: bool) -> None:
    store = make(page_size, canaries)
    fill(store)
    k, v = store.gather(torch.arange(2 * page_size, 4 * page_size + 3))[1].chunk(2)
    wanted = 1000.0 + torch.arange(2 * page_size, 4 * page_size + 3)
    assert torch.equal(k[1, :, 0], wanted)
    assert torch.equal(v[0, :, 3], -wanted)


def test_a_run_of_pages_is_a_view() -> None:
    store = make()
    run = store.run(8, 20)[0]
    store.write(0, torch.tensor([8]), torch.ones(1, HEADS, WIDTH), torch.ones(1, HEADS, WIDTH))
    assert (run[:, 0] == 1).all()


@pytest.mark.parametrize("canaries", [False, True])
def test_copies_read_every_source_before_anything_is_written(canaries: bool) -> None:
    store = make(8, canaries)
    fill(store)
    store.copy_pages([(0, 1), (1, 2), (4, 5)])
    for layer in range(LAYERS):
        first = [int(read(store, layer, 8 * page)[0, 0]) - 1000 * layer for page in range(PAGES)]
        assert first == [0, 0, 8, 24, 32, 32]
        assert int(read(store, layer, 23)[HEADS, 0]) == -15 - 1000 * layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_canaries_stay_quiet_and_then_name_the_page_written_over(dtype: torch.dtype) -> None:
    store = make(8, canaries=True, dtype=dtype)
    fill(store)
    store.copy_pages([(3, 0)])
    store.check_canaries()
    store.layers[1][:, store.places(torch.tensor([4 * 8 + 7])) + 1] = 0
    with pytest.raises(RuntimeError, match="page 4"):
        store.check_canaries()


def test_gather_takes_slots_of_all_layers() -> None:
    store = make()
    fill(store)
    found = store.gather(torch.tensor([17, 3]))
    assert found.shape == (LAYERS, 2 * HEADS, 2, WIDTH)
    assert found[1, 0, :, 0].tolist() == [1017, 1003]


def test_k_and_v_next_to_each_other_are_joined_without_a_copy() -> None:
    fused = torch.randn(3, 4 + 2 + 2, WIDTH)
    k, v = fused[:, 4:6], fused[:, 6:]
    both = joined(k, v)
    assert both.data_ptr() == k.data_ptr()
    assert torch.equal(both, torch.cat((k, v), 1))
    assert torch.equal(joined(v, k), torch.cat((v, k), 1))


def test_bytes_per_page_is_what_the_store_takes() -> None:
    store = make(16, dtype=torch.bfloat16)
    assert bytes_per_page(LAYERS, 16, HEADS, WIDTH, torch.bfloat16) * PAGES == store.data.nbytes


@pytest.mark.parametrize("canaries", [False, True])
@pytest.mark.parametrize("slots", [[9, 10, 11, 12], [31], [5, 4, 30]])
def test_a_writer_stores_where_write_does(slots: list[int], canaries: bool) -> None:
    one, other = make(8, canaries), make(8, canaries)
    kv = torch.randn(len(slots), 2 * HEADS, WIDTH)
    one.writer(slots, torch.tensor(slots))(1, kv)
    other.write(1, torch.tensor(slots), *kv.chunk(2, dim=1))
    assert torch.equal(one.data, other.data)
