# SPDX-License-Identifier: LGPL-2.1-only
"""Numbers of the record, and which of its steps concern the VGA ports."""

import pytest

from xlplug.execute.journal import Journal, is_vga
from xlplug.model.addr import Domid
from xlplug.model.errors import StoreError
from xlplug.model.rangeset import Range
from xlplug.model.steps import IOMEM_PERMISSION, IOPORT_MAPPING, IOPORT_PERMISSION, Step
from xlplug.xen.in_memory import MemStore


def read(first: str) -> Step:
    store = MemStore()
    for name, text in (
        ("state", "applied"),
        ("handle", "u"),
        ("steps/000", f"iomem_permission target 7 {first} 1 - - - -"),
    ):
        store.write(f"/libxl/7/xlplug/{name}", text)
    (step,) = Journal(store, 7, "u").read().steps
    return step


@pytest.mark.parametrize("text", ["0", "a", "0123456789abcdef", "ffffffffffffffff"])
def test_numbers_of_64_bits(text: str) -> None:
    assert read(text).first == int(text, 16)


@pytest.mark.parametrize("text", ["", "+1", "1_0", "0x1", "A", "g", " ", "-1", "0" * 17])
def test_what_is_not_a_number(text: str) -> None:
    with pytest.raises(StoreError):
        read(text)


@pytest.mark.parametrize(
    ("op", "span", "expected"),
    [
        (IOPORT_PERMISSION, Range(0x3C0, 0x3E0), True),
        (IOPORT_MAPPING, Range(0x3B0, 0x3BC), True),
        (IOPORT_PERMISSION, Range(0x3DF, 0x400), True),
        (IOPORT_PERMISSION, Range(0x3BC, 0x3C0), False),
        (IOPORT_PERMISSION, Range(0x2F8, 0x300), False),
        (IOMEM_PERMISSION, Range(0x3C0, 0x3E0), False),
    ],
)
def test_which_steps_concern_the_vga_ports(op: str, span: Range, expected: bool) -> None:
    assert is_vga(Step(op, "target", Domid(7), span.start, span.nr, "", None)) is expected
