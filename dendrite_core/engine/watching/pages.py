"""Which of a branch's pages are its own, and which others hold too."""

from __future__ import annotations

from dendrite_core.cache.branch import Branch
from dendrite_core.cache.tree import TreeCache


def count_pages(branch: Branch, cache: TreeCache) -> tuple[int, int]:
    """(shared, owned) pages of a branch. Walks up its nodes as far as nobody else is on the way."""
    node = branch.cursor
    if node is None:
        return 0, 0
    total = node.end // cache.page_size + len(branch.tail)
    owned = sum(not cache.pending_copies.is_shared(page) for page in branch.tail)
    while node is not None and node.parent is not None and node.pins == 1:
        # Who ends within a full page holds that page and not the node.
        owned += list(map(cache.pool.refs.__getitem__, node.pages)).count(1)
        node = node.parent
    return total - owned, owned
