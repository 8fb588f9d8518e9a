# SPDX-License-Identifier: LGPL-2.1-only
import random

import pytest

from xlplug.model.rangeset import RangeSet


def test_laws_against_plain_sets() -> None:
    rng = random.Random(1)

    def pair() -> tuple[RangeSet, set[int]]:
        ranges = [(a, a + rng.randrange(6)) for a in (rng.randrange(30) for _ in range(rng.randrange(6)))]
        return RangeSet(ranges), {i for a, b in ranges for i in range(a, b)}

    for _ in range(4000):
        (one, one_set), (two, two_set) = pair(), pair()
        for made, wanted in (
            (one | two, one_set | two_set),
            (one & two, one_set & two_set),
            (one - two, one_set - two_set),
        ):
            assert {i for r in made for i in range(*r)} == wanted
            assert all(a.stop < b.start for a, b in zip(made.ranges, made.ranges[1:], strict=False)), "not maximal"
            assert made.total == len(wanted)
        start = rng.randrange(30)
        stop = start + 1 + rng.randrange(5)
        assert one.covers(start, stop) == (set(range(start, stop)) <= one_set)
        assert one.overlaps(start, stop) == bool(set(range(start, stop)) & one_set)
        assert one.within(start, stop) == one & RangeSet([(start, stop)])


def test_printing_is_xen_s() -> None:
    assert str(RangeSet(((0x3C0, 0x3E0), (0x3B0, 0x3BC), (0x70, 0x71)))) == "{ 70, 3b0-3bb, 3c0-3df }"
    assert str(RangeSet()) == "{ }"
    for text in ("{ }", "{ 70, 3b0-3bb, 3c0-3df }"):
        assert str(RangeSet.parse(text)) == text
    with pytest.raises(ValueError, match="invalid literal"):
        RangeSet.parse("{ x }")


def test_a_range_that_ends_before_it_starts_is_a_bug() -> None:
    with pytest.raises(ValueError, match="ends before"):
        RangeSet([(2, 1)])
