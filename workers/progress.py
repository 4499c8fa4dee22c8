"""Which positions of a file are done. Parts may be done in any order, at the same time, and again."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class DoneRanges:
    """The ranges of a file that are done, each position counted once. Not thread-safe: its user has a lock."""

    def __init__(self) -> None:
        self.total = 0
        """Number of positions that are done. It never falls."""
        # Sorted, and neither touching nor overlapping: few, even if a million blocks are done one by one.
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> bool:
        """Record a range as done. Returns whether any position of it was not done before."""
        if start >= end:
            return False
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        before = self.total
        if first < last:  # it touches these ranges: they become one
            self.total -= sum(self._ends[first:last]) - sum(self._starts[first:last])
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]
        self.total += end - start
        return self.total > before
