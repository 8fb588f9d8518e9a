# SPDX-License-Identifier: LGPL-2.1-only
"""libudev through pyudev, whose only importer this is: which PCI functions there are, and when that changes.

libudev hands out attributes as C strings, which cannot hold config space, so pci.py reads a function's files.
"""

import pyudev

from xlplug.dom0.pci import several
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostNote, PciDevice

__all__ = ["Monitor", "devices"]


def devices(owned: dict[Bdf, Domid] | None = None) -> tuple[tuple[PciDevice, ...], tuple[HostNote, ...]]:
    """Every PCI function, by address, and a note for each that cannot be read, as `several`."""
    entries = pyudev.Context().list_devices(subsystem="pci")
    return several((entry.sys_path for entry in entries), owned or {})


class Monitor:
    """Changes to the host's PCI functions: plugged, unplugged, bound, unbound."""

    def __init__(self) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context())
        self._monitor.filter_by(subsystem="pci")
        self._monitor.start()

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return int(self._monitor.fileno())

    def drain(self) -> list[tuple[str, str]]:
        """What has happened since the last call: (action, address) pairs."""
        found = []
        while (device := self._monitor.poll(timeout=0)) is not None:
            found.append((str(device.action), str(device.sys_name)))
        return found
