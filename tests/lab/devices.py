# SPDX-License-Identifier: LGPL-2.1-only
"""Devices of the lab's machine that tests of delegation give to guests, as QEMU's -device: all kinds of BARs.

edu: memory, 1 MiB; two of them.  pci-testdev: memory 4 KiB, ports 256, 64-bit prefetchable memory 16 MiB.  ne2k_pci: ports 256.
rtl8139: ports 256, and memory of 256 bytes, less than a page.  They have no option ROM, and no network behind them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.tree import Tree
from tests.lab.vm import Machine

DEVICES = (
    "edu,addr=10.0",
    "pci-testdev,addr=11.0,membar=16M",
    "ne2k_pci,addr=12.0,romfile=",
    "rtl8139,addr=13.0,romfile=",
    "edu,addr=14.0",
)


@contextmanager
def with_devices(tree: Tree, job: Path) -> Iterator[Machine]:
    """The standard machine, and these devices."""
    yield Machine(displays=("-vga", "std", *(word for device in DEVICES for word in ("-device", device))))
