# SPDX-License-Identifier: LGPL-2.1-only
"""The lab itself: what stock Xen, xl and QEMU do without us, from Xen's own dump."""

from pathlib import Path

from tests.lab.dom0.conftest import Guests, dump
from xlplug.model.rangeset import RangeSet


def test_a_plain_guest_holds_nothing(guests: Guests) -> None:
    domid, _ = guests.make()
    assert dump()[domid] == (RangeSet(), RangeSet())


def test_stock_xl_and_qemu_grant_an_igd_guest_this(igd_guest: tuple[int, Path]) -> None:
    held = dump()[igd_guest[0]]
    assert str(held.memory) == "{ a0-df, fd000-fdfff, febf0 }"
    assert str(held.ports) == "{ 3b0-3bb, 3c0-3df }"
