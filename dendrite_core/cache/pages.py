"""`PagePool`: which pages are free, and how many holders each of the others has. `PendingCopies`: the page
copies that the next step owes.

A page is an int; what lies in it is `forward/`'s business. Holders are a radix node (at most one), the
branches whose tail it is, and copies that have not run yet. The free list hands out the lowest ids first,
so that what is allocated together lies together and attention can read it as one view.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush


class PagePool:
    """Pages 0..num_pages-1 with one reference count each; a page is free exactly when its count is 0.

    `written` says how many slots of a page in use, from its first, are written or promised to a writer: a
    holder of all of them may write on, whoever else holds fewer.
    """

    __slots__ = ("_free", "num_pages", "refs", "written")

    def __init__(self, num_pages: int) -> None:
        assert num_pages > 0
        self.num_pages = num_pages
        self.refs = [0] * num_pages
        self.written = [0] * num_pages
        self._free = list(range(num_pages))

    @property
    def free(self) -> int:
        """Pages that can be allocated now."""
        return len(self._free)

    @property
    def used(self) -> int:
        return self.num_pages - len(self._free)

    def allocate(self) -> int:
        """The lowest free page, with one reference. The caller has checked that there is one."""
        assert self._free, "no free page"
        page = heappop(self._free)
        self.refs[page] = 1
        return page

    def allocate_many(self, count: int) -> list[int]:
        """`count` pages in ascending order, with one reference each."""
        return [self.allocate() for _ in range(count)]

    def retain(self, page: int) -> None:
        assert self.refs[page] > 0, "a free page has no content to share"
        self.refs[page] += 1

    def retain_many(self, pages: Iterable[int]) -> None:
        for page in pages:
            self.retain(page)

    def release(self, page: int) -> bool:
        """Give one reference back; whether the page is free now."""
        left = self.refs[page] = self.refs[page] - 1
        assert left >= 0, "page released more often than held"
        if left:
            return False
        heappush(self._free, page)
        return True

    def release_many(self, pages: Iterable[int]) -> int:
        """Give one reference of each back; how many pages became free."""
        return sum(map(self.release, pages))


class PendingCopies:
    """Copies of shared pages, due before the next step writes: their result does not depend on their order.

    Both pages of a copy are held until it is taken, so none becomes the destination of another.
    """

    __slots__ = ("_held", "_origin", "_pairs", "_pool", "added")

    def __init__(self, pool: PagePool) -> None:
        self.added = 0
        self._pool = pool
        self._pairs: list[tuple[int, int]] = []
        self._origin: dict[int, int] = {}
        self._held: dict[int, int] = {}

    def add(self, page: int) -> int:
        """Exchange one reference to `page` for one to a fresh page that will get its content."""
        new = self._pool.allocate()
        # A copy of a copy that is still due reads the original.
        source = self._origin.get(page, page)
        self._origin[new] = source
        self._pairs.append((source, new))
        for held in (source, new):
            self._pool.retain(held)
            self._held[held] = self._held.get(held, 0) + 1
        self._pool.release(page)
        self.added += 1
        return new

    def is_shared(self, page: int) -> bool:
        """Whether more than one holder needs the page's content once the copies due have run."""
        refs = self._pool.refs[page]
        return refs > 1 and refs > 1 + self._held.get(page, 0)

    def take(self) -> list[tuple[int, int]]:
        """Hand over the (source, destination) pairs, to be run now."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._pool.release_many(pair)
        self._origin.clear()
        self._held.clear()
        return pairs

    def holders(self) -> dict[int, int]:
        """References that the copies due have on each page."""
        return dict(self._held)
