"""The named invariants of the tree cache, each recounted from scratch; for tests and debugging.

`check(cache)` raises AssertionError naming the one that fails. It may be called between any two operations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from dendrite_core.cache.branch import Branch
from dendrite_core.cache.radix import Node
from dendrite_core.cache.tree import TreeCache


def check(cache: TreeCache) -> None:
    """Verify every invariant; O(everything)."""
    for name, holds in INVARIANTS.items():
        fault = holds(cache)
        assert fault is None, f"{name}: {fault}"


def no_page_lost(cache: TreeCache) -> str | None:
    """free + in nodes + distinct pages outside nodes (tails, pending copies) = all."""
    in_nodes = sum(len(node.pages) for node in cache.tree.walk())
    loose = {page for branch in _objects(cache) for page in branch.tail}
    loose |= cache.pending_copies.holders().keys()
    loose -= {page for node in cache.tree.walk() for page in node.pages}
    total = cache.pool.free + in_nodes + len(loose)
    if total != cache.pool.num_pages:
        return f"{cache.pool.free} free + {in_nodes} in nodes + {len(loose)} loose != {cache.pool.num_pages}"
    cached = sum(len(node.pages) for node in cache.tree.walk() if not node.pins)
    if cached != cache.tree.cached_pages:
        return f"{cached} pages cached, counted {cache.tree.cached_pages}"
    return None


def references_add_up(cache: TreeCache) -> str | None:
    """A page's reference count = its node + branches with it in their tail + pending copies of it."""
    refs = Counter(page for node in cache.tree.walk() for page in node.pages)
    refs.update(page for branch in _objects(cache) for page in branch.tail)
    refs.update(cache.pending_copies.holders())
    for page, counted in enumerate(cache.pool.refs):
        if refs[page] != counted:
            return f"page {page} has {refs[page]} holders, counted {counted}"
    return None


def pins_add_up(cache: TreeCache) -> str | None:
    """A node's pins = cursors on it + its pinned children."""
    cursors = Counter(id(branch.cursor) for branch in _objects(cache) if branch.cursor is not None)
    for node in cache.tree.walk():
        pins = cursors.pop(id(node), 0) + sum(1 for child in node.children if child.pins)
        if pins != node.pins:
            return f"node ending at {node.end} has {pins} pins, counted {node.pins}"
    return "a cursor on a node outside the tree" if cursors else None


def one_owner(cache: TreeCache) -> str | None:
    """A full page belongs to one node, and reserved room to one branch."""
    owners = Counter(page for node in cache.tree.walk() for page in node.pages)
    for branch in _objects(cache):
        filled = branch.cursor is not None and branch.kv_length > branch.cursor.end
        owners.update(branch.tail[1:] if filled else branch.tail)
    return next((f"page {page} has {count} owners" for page, count in owners.items() if count > 1), None)


def nodes_are_whole_pages(cache: TreeCache) -> str | None:
    """Nodes span whole pages, at least one, and end where their parent ends plus their span."""
    for node in cache.tree.walk():
        parent = node.parent
        if parent is None:
            if node.tokens or node.pages or node.end:
                return "a root with content"
        elif len(node.tokens) != len(node.pages) * cache.page_size or not node.pages:
            return f"{len(node.tokens)} tokens on {len(node.pages)} pages"
        elif node.end != parent.end + len(node.tokens):
            return f"node of {len(node.tokens)} tokens after {parent.end} ends at {node.end}"
    return None


def children_are_keyed(cache: TreeCache) -> str | None:
    """Children are distinct, in ascending order of their first page's tokens, and know their parent."""
    for node in cache.tree.walk():
        keys = [tuple(child.tokens[: cache.page_size]) for child in node.children]
        if keys != node.keys or any(a >= b for a, b in pairwise(keys)):
            return f"children of the node ending at {node.end} are out of order"
        if any(child.parent is not node for child in node.children):
            return "a child with another parent"
    count = sum(1 for node in cache.tree.walk() if node.parent is not None)
    return None if count == cache.tree.nodes else f"{count} nodes, counted {cache.tree.nodes}"


def kv_follows_tokens(cache: TreeCache) -> str | None:
    """A branch's KV never runs ahead of its tokens, lies in its cursor's path plus less than a page, and is
    the KV of its tokens; its running table lists exactly those pages."""
    for branch in _objects(cache):
        cursor = branch.cursor
        if cursor is None:
            if branch.tail or branch.kv_length or branch.table:
                return f"{branch!r} is parked but holds pages"
            continue
        filled = branch.kv_length - cursor.end
        if branch.kv_length > len(branch) or not 0 <= filled < cache.page_size:
            return f"{branch!r} stands at {cursor.end}"
        if (filled > 0 and not branch.tail) or (not branch.running and len(branch.tail) != (filled > 0)):
            return f"{branch!r} has {len(branch.tail)} tail pages for {filled} tokens"
        if branch.tokens(0, cursor.end) != _path_tokens(cursor):
            return f"{branch!r} stands on other tokens than its own"
        if branch.table is not None and branch.table.pages != cursor.pages_from(0) + branch.tail:
            return f"{branch!r} has an outdated page table"
    return None


def slots_have_one_writer(cache: TreeCache) -> str | None:
    """A page holds no more than was written or promised, and what is promised to one no other holds."""
    size, written = cache.page_size, cache.pool.written
    for node in cache.tree.walk():
        if any(written[page] != size for page in node.pages):
            return f"the node ending at {node.end} has pages that are not written"
    held: dict[int, list[tuple[int, int]]] = {}
    for branch in _objects(cache):
        if branch.cursor is not None and (filled := branch.kv_length - branch.cursor.end):
            promised = branch.table.promised - branch.cursor.end if branch.table is not None else 0
            held.setdefault(branch.tail[0], []).append((filled, min(max(filled, promised), size)))
    for page, holders in held.items():
        if max(end for _, end in holders) > written[page]:
            return f"page {page} has {written[page]} slots written, but one who holds more"
        for at, (filled, end) in enumerate(holders):
            others = (other for index, (_, other) in enumerate(holders) if index != at)
            if end > filled and any(other > filled for other in others):
                return f"slots {filled} to {end} of page {page} are promised, but one holds them"
    return None


def holders_agree(cache: TreeCache) -> str | None:
    """All holders of a page hold the same tokens in it, as far as each of them goes."""
    content: dict[int, list[int]] = {}
    for node in cache.tree.walk():
        for index, page in enumerate(node.pages):
            content[page] = node.tokens[index * cache.page_size : (index + 1) * cache.page_size]
    for branch in _objects(cache):
        if branch.cursor is not None and branch.kv_length > branch.cursor.end:
            own = branch.tokens(branch.cursor.end, branch.kv_length)
            known = content.get(branch.tail[0], [])
            common = min(len(own), len(known))
            if own[:common] != known[:common]:
                return f"{branch!r} holds other tokens in page {branch.tail[0]} than another"
            content[branch.tail[0]] = max(own, known, key=len)
    return None


def namespaces_are_apart(cache: TreeCache) -> str | None:
    """A branch's KV lies under the root of its own namespace."""
    for branch in _objects(cache):
        top = branch.cursor
        while top is not None and top.parent is not None:
            top = top.parent
        if top is not None and cache.tree.roots.get(branch.namespace) is not top:
            return f"{branch!r} stands in another namespace"
    return None


def records_are_linked(cache: TreeCache) -> str | None:
    """Parent and children know each other; a released record stays only as the past of others, without KV."""
    for branch in _objects(cache):
        if branch.parent is not None and branch.parent.children.get(branch.id) is not branch:
            return f"{branch!r} is unknown to its parent"
        if branch.id not in cache.branches and (not branch.children or branch.cursor is not None):
            return f"released {branch!r} is kept"
        if any(child.start > len(branch) for child in branch.children.values()):
            return f"{branch!r} ends before a fork point"
    return None


def leaves_can_be_evicted(cache: TreeCache) -> str | None:
    """Every unpinned leaf is in the eviction order, and no node was used later than an unpinned parent."""
    offered = {(id(node), stamp) for stamp, node in cache.tree.offered()}
    for node in cache.tree.walk():
        if node.parent is None or node.pins:
            continue
        if not node.children and (id(node), node.last_used) not in offered:
            return f"unpinned leaf ending at {node.end} will never be evicted"
        if node.parent.parent is not None and not node.parent.pins and node.last_used > node.parent.last_used:
            return f"node ending at {node.end} was used later than its parent"
    return None


INVARIANTS: dict[str, Callable[[TreeCache], str | None]] = {
    "no page lost": no_page_lost,
    "references add up": references_add_up,
    "pins add up": pins_add_up,
    "one owner": one_owner,
    "nodes are whole pages": nodes_are_whole_pages,
    "children are keyed": children_are_keyed,
    "kv follows tokens": kv_follows_tokens,
    "slots have one writer": slots_have_one_writer,
    "holders agree": holders_agree,
    "namespaces are apart": namespaces_are_apart,
    "records are linked": records_are_linked,
    "leaves can be evicted": leaves_can_be_evicted,
}


def _objects(cache: TreeCache) -> list[Branch]:
    """All branch objects: registered ones, and released ones that are kept as the past of their children."""
    found = {id(branch): branch for branch in cache.branches.values()}
    for branch in cache.branches.values():
        parent = branch.parent
        while parent is not None and id(parent) not in found:
            found[id(parent)] = parent
            parent = parent.parent
    return list(found.values())


def _path_tokens(node: Node) -> list[int]:
    parts: list[list[int]] = []
    top: Node | None = node
    while top is not None:
        parts.append(top.tokens)
        top = top.parent
    return [token for part in reversed(parts) for token in part]
