# SPDX-License-Identifier: LGPL-2.1-only
"""Half-open integer ranges and sets of them, with Xen's own rules.  As text they are inclusive and hexadecimal, as Xen's.

Only set algebra lives here; a range does not know whether it counts bytes, frames or ports.  A `RangeSet` is always in
normal form: sorted, disjoint, and merged where ranges touch, which is what Xen's rangesets do too
(xen/common/rangeset.c, rangeset_add_range).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Range", "RangeSet"]


class Range(NamedTuple):
    """The integers from ``start`` up to but not including ``stop``."""

    start: int
    stop: int

    @property
    def nr(self) -> int:
        """How many integers the range holds."""
        return self.stop - self.start

    @property
    def last(self) -> int:
        """The last integer of the range (inclusive end)."""
        return self.stop - 1

    def __str__(self) -> str:
        """As Xen and /proc/iomem print it: hexadecimal, both ends included, ``3b0-3bb``; of one number, that number."""
        return f"{self.start:x}" if self.nr == 1 else f"{self.start:x}-{self.last:x}"


class RangeSet:
    """An immutable set of integers kept as maximal disjoint ranges; equal sets compare equal."""

    __slots__ = ("ranges",)

    ranges: tuple[Range, ...]

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        ranges = tuple(ranges)
        if len(ranges) == 1 and ranges[0][0] < ranges[0][1]:  # the usual case, by far
            self.ranges = (Range(*ranges[0]),)
            return
        merged: list[Range] = []
        for start, stop in sorted(ranges):
            if start > stop:
                raise ValueError(f"range ends before it starts: [{start:#x}, {stop:#x})")
            if start == stop:
                continue
            if merged and start <= merged[-1].stop:
                if stop > merged[-1].stop:
                    merged[-1] = Range(merged[-1].start, stop)
            else:
                merged.append(Range(start, stop))
        self.ranges = tuple(merged)

    @classmethod
    def parse(cls, text: str) -> "RangeSet":
        """Read what ``str`` prints, which is Xen's own form: ``{ 3b0-3bb, 3c0 }``, hexadecimal, inclusive; and `text`.

        Raises:
            ValueError: the text is anything else.
        """
        body = text.strip().removeprefix("{").removesuffix("}")
        ranges = []
        for part in filter(None, (piece.strip() for piece in body.split(","))):
            first, dash, last = part.partition("-")
            ranges.append((int(first, 16), int(last if dash else first, 16) + 1))
        return cls(ranges)

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges)

    def __len__(self) -> int:
        """How many maximal ranges there are (not how many integers: see `total`)."""
        return len(self.ranges)

    def __eq__(self, other: object) -> bool:
        return self.ranges == other.ranges if isinstance(other, RangeSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"RangeSet({[tuple(r) for r in self.ranges]!r})"

    def __str__(self) -> str:
        """As Xen's ``q`` debug key prints it: hexadecimal, inclusive, ``{ 3b0-3bb, 3c0-3df }``."""
        return f"{{ {', '.join(map(str, self.ranges))} }}" if self.ranges else "{ }"

    @property
    def bare(self) -> str:
        """As in a sentence: ``3b0-3bb, 3c0``."""
        return ", ".join(map(str, self.ranges))

    @property
    def text(self) -> str:
        """As a node in xenstore holds it: ``a0-bf,7a18d-7a18d``, empty for an empty set."""
        return ",".join(f"{r.start:x}-{r.last:x}" for r in self.ranges)

    @property
    def total(self) -> int:
        """How many integers the set holds."""
        return sum(r.nr for r in self.ranges)

    def __or__(self, other: "RangeSet") -> "RangeSet":
        return RangeSet([*self.ranges, *other.ranges])

    def __and__(self, other: "RangeSet") -> "RangeSet":
        found: list[tuple[int, int]] = []
        mine, theirs = list(self.ranges), list(other.ranges)
        i = j = 0
        while i < len(mine) and j < len(theirs):
            start, stop = max(mine[i].start, theirs[j].start), min(mine[i].stop, theirs[j].stop)
            if start < stop:
                found.append((start, stop))
            if mine[i].stop < theirs[j].stop:
                i += 1
            else:
                j += 1
        return RangeSet(found)

    def __sub__(self, other: "RangeSet") -> "RangeSet":
        left: list[tuple[int, int]] = []
        cuts = other.ranges
        j = 0
        for start, stop in self.ranges:
            at = start
            while j < len(cuts) and cuts[j].stop <= at:
                j += 1
            k = j
            while k < len(cuts) and cuts[k].start < stop:
                if cuts[k].start > at:
                    left.append((at, cuts[k].start))
                at = max(at, cuts[k].stop)
                k += 1
            if at < stop:
                left.append((at, stop))
        return RangeSet(left)

    def within(self, start: int, stop: int) -> "RangeSet":
        """The part of the set in ``[start, stop)``, found by bisection: for many questions to a large set."""
        at = bisect_right(self.ranges, start, key=lambda r: r.stop)
        found: list[tuple[int, int]] = []
        while at < len(self.ranges) and self.ranges[at].start < stop:
            found.append((max(start, self.ranges[at].start), min(stop, self.ranges[at].stop)))
            at += 1
        return RangeSet(found)

    def covers(self, start: int, stop: int) -> bool:
        """Whether every integer of ``[start, stop)`` is in the set."""
        return any(r.start <= start and stop <= r.stop for r in self.ranges)

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any integer of ``[start, stop)`` is in the set."""
        return any(r.start < stop and start < r.stop for r in self.ranges)
