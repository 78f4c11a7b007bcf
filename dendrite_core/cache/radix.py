"""`RadixTree`: content, as tokens to full pages, one root per namespace; sole owner of full pages.

A node is a span of whole pages. Splitting one puts a new node *above* it, so whoever points at a node's
end stays right, and a cursor is just a node. `pins` counts cursors on a node plus its pinned children;
what is not pinned is cached content and may be evicted, leaves first, least recently used first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from heapq import heapify, heappop, heappush

from dendrite_core.cache.pages import PagePool

Key = tuple[int, ...]


class Node:
    """A span of full pages, ending at position `end` (in tokens from the root).

    `keys[i]` is the first page of tokens of `children[i]`, in ascending order: bisection finds an equal
    page, its neighbours are the pages with the longest equal start, and no choice of tokens can make it
    slow, as hash keys could be made to collide.
    """

    __slots__ = ("children", "end", "keys", "last_used", "pages", "parent", "pins", "tokens")

    def __init__(self, parent: Node | None, tokens: list[int], pages: list[int], end: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.pages = pages
        self.end = end
        self.keys: list[Key] = []
        self.children: list[Node] = []
        self.pins = 0
        self.last_used = 0

    @property
    def start(self) -> int:
        return self.end - len(self.tokens)

    def child(self, key: Key) -> Node | None:
        """The child whose first page is exactly `key`."""
        index = bisect_left(self.keys, key)
        return self.children[index] if index < len(self.keys) and self.keys[index] == key else None

    def put(self, key: Key, child: Node) -> None:
        """Add `child`, or put it in the place of the one that has this key."""
        index = bisect_left(self.keys, key)
        if index < len(self.keys) and self.keys[index] == key:
            self.children[index] = child
        else:
            self.keys.insert(index, key)
            self.children.insert(index, child)

    def remove(self, key: Key) -> None:
        index = bisect_left(self.keys, key)
        del self.keys[index], self.children[index]

    def pages_from(self, position: int) -> list[int]:
        """Pages of the path from the root to this node's end, from the node boundary `position` on."""
        parts: list[list[int]] = []
        node: Node | None = self
        while node is not None and node.end > position:
            parts.append(node.pages)
            node = node.parent
        pages: list[int] = []
        for part in reversed(parts):
            pages += part
        return pages


class RadixTree:
    """Nodes over a pool's pages. `nodes`, `cached_pages` and `evicted_pages` are kept as it goes.

    Token lists handed in start at the end of the node they are handed in with.
    """

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self.pool = pool
        self.page_size = page_size
        self.roots: dict[tuple[Hashable, ...], Node] = {}
        self.nodes = 0
        self.cached_pages = 0
        self.evicted_pages = 0
        self._clock = 0
        self._leaves: list[tuple[int, int, Node]] = []
        self._sweep_roots_at = 64

    def root(self, namespace: tuple[Hashable, ...]) -> Node:
        """The root of a namespace, made on first use."""
        root = self.roots.get(namespace)
        if root is None:
            if len(self.roots) >= self._sweep_roots_at:
                self.roots = {name: node for name, node in self.roots.items() if node.pins or node.children}
                self._sweep_roots_at = max(64, 2 * len(self.roots))
            root = self.roots[namespace] = Node(None, [], [], 0)
        return root

    def walk(self) -> Iterator[Node]:
        """All nodes, roots included, parents before children."""
        found = list(self.roots.values())
        for node in found:
            found.extend(node.children)
            yield node

    def shared_pages(self) -> set[int]:
        """Pages of the nodes on the way of two or more cursors."""
        shared: set[Node] = set()
        for node in reversed(list(self.walk())):
            if node.pins > 1 or any(child in shared for child in node.children):
                shared.add(node)
        return {page for node in shared for page in node.pages}

    def match(self, node: Node, tokens: list[int]) -> Node:
        """The node below (or at) `node` at which the longest equal run of whole pages ends."""
        size, position = self.page_size, 0
        while node.children and position + size <= len(tokens):
            child = node.child(tuple(tokens[position : position + size]))
            if child is None:
                break
            equal = common_prefix(child.tokens, tokens[position : position + len(child.tokens)])
            if equal < len(child.tokens):
                return self.split(child, equal // size)
            node, position = child, position + equal
        return node

    def match_within_page(self, node: Node, tokens: list[int]) -> tuple[int, int] | None:
        """The page below `node` that starts most like `tokens`, and how many tokens are equal, if any."""
        key = tuple(tokens[: self.page_size])
        index = bisect_left(node.keys, key)
        best: tuple[int, int] | None = None
        for near in range(max(index - 1, 0), min(index + 1, len(node.keys))):
            equal = common_prefix(node.keys[near], key)
            if equal > (best[1] if best else 0):
                best = node.children[near].pages[0], equal
        return best

    def locate(self, node: Node, position: int) -> tuple[Node, int | None]:
        """The node on the way up from `node` that ends at the last page boundary at or before `position`,
        and the page that holds the tokens between the two, if they differ."""
        while node.start > position:
            assert node.parent is not None
            node = node.parent
        if position == node.end:
            return node, None
        whole, rest = divmod(position - node.start, self.page_size)
        page = node.pages[whole] if rest else None
        if whole:
            return self.split(node, whole), page
        assert node.parent is not None
        return node.parent, page

    def split(self, node: Node, count: int) -> Node:
        """Cut `node` after its first `count` pages; the new upper node. `node` keeps the lower part."""
        parent, cut = node.parent, count * self.page_size
        assert parent is not None
        assert 0 < count < len(node.pages), "a split leaves two nodes of at least one page"
        upper = Node(parent, node.tokens[:cut], node.pages[:count], node.start + cut)
        upper.pins = 1 if node.pins else 0
        upper.last_used = node.last_used
        parent.put(self._key(upper), upper)
        del node.tokens[:cut], node.pages[:count]
        node.parent = upper
        upper.put(self._key(node), node)
        self.nodes += 1
        return upper

    def extend(self, node: Node, tokens: list[int], pages: list[int]) -> Node:
        """Put full pages after a node that the caller has a cursor on, and move that cursor; where to."""
        if self.sole_user(node):
            node.tokens += tokens
            node.pages += pages
            node.end += len(tokens)
            return node
        child = Node(node, tokens, pages, node.end + len(tokens))
        node.put(self._key(child), child)
        self.nodes += 1
        self.cached_pages += len(pages)
        self.pin(child)
        self.unpin(node)
        return child

    def sole_user(self, node: Node) -> bool:
        """Whether one cursor is all that hangs on a node, so that its end may move."""
        return node.pins == 1 and not node.children and node.parent is not None

    def pin(self, node: Node) -> None:
        """Count a cursor on `node`; pins its ancestors too if it was not pinned yet."""
        while True:
            node.pins += 1
            if node.pins > 1 or node.parent is None:
                return
            self.cached_pages -= len(node.pages)
            node = node.parent

    def unpin(self, node: Node) -> None:
        """Take a cursor off; content that nothing pins any more stays cached."""
        while True:
            node.pins -= 1
            assert node.pins >= 0, "node unpinned more often than pinned"
            if node.pins or node.parent is None:
                return
            self._clock += 1
            node.last_used = self._clock
            self.cached_pages += len(node.pages)
            if not node.children:
                self._offer(node)
            node = node.parent

    def discard(self, node: Node) -> None:
        """Take a cursor off, and free at once what neither a cursor nor other content needs."""
        self.unpin(node)
        while node.parent is not None and node.pins == 0 and not node.children:
            parent = node.parent
            self._drop_pages(node, len(node.pages))
            node = parent

    def evict(self, count: int) -> int:
        """Free up to `count` pages of unpinned leaves, from their ends; how many became free."""
        freed = 0
        while freed < count and self._leaves:
            stamp, _, node = heappop(self._leaves)
            if self._evictable(node, stamp):
                freed += self._drop_pages(node, min(count - freed, len(node.pages)))
        self.evicted_pages += freed
        return freed

    def _drop_pages(self, node: Node, count: int) -> int:
        """Take the last `count` pages off an unpinned leaf, and the leaf off the tree if none is left."""
        parent, cut = node.parent, len(node.pages) - count
        assert parent is not None
        if cut == 0:
            parent.remove(self._key(node))
            node.parent = None
            self.nodes -= 1
            if parent.pins == 0 and not parent.children and parent.parent is not None:
                self._offer(parent)
        freed = self.pool.release_many(node.pages[cut:])
        self.cached_pages -= count
        node.end -= count * self.page_size
        del node.pages[cut:], node.tokens[cut * self.page_size :]
        if cut:
            self._offer(node)
        return freed

    def _offer(self, leaf: Node) -> None:
        """Let an unpinned leaf be evicted in its turn."""
        self._clock += 1
        heappush(self._leaves, (leaf.last_used, self._clock, leaf))
        if len(self._leaves) > 2 * self.nodes + 64:
            self._leaves = [entry for entry in self._leaves if self._evictable(entry[2], entry[0])]
            heapify(self._leaves)

    def offered(self) -> list[tuple[int, Node]]:
        """(stamp, leaf) pairs in the eviction order, outdated ones left out."""
        return [(stamp, node) for stamp, _, node in self._leaves if self._evictable(node, stamp)]

    def _evictable(self, node: Node, stamp: int) -> bool:
        """Whether a heap entry still tells the truth; entries are never searched for, only outdated."""
        return node.parent is not None and node.pins == 0 and not node.children and node.last_used == stamp

    def _key(self, node: Node) -> Key:
        return tuple(node.tokens[: self.page_size])


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items are equal. Bisects over slices: one pass over the data at C speed."""
    low, high = 0, min(len(a), len(b))
    if (a if len(a) == high else a[:high]) == (b if len(b) == high else b[:high]):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
