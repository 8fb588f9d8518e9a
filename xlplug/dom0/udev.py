# SPDX-License-Identifier: LGPL-2.1-only
"""libudev through pyudev, whose only importer this is: which PCI functions there are, and when that changes.

libudev hands out attributes as C strings, so that what is in a function is read as files, by sysfs.py.
"""

import pyudev

from xlplug.dom0.pci import function
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import PciDevice

__all__ = ["Monitor", "devices"]


def devices(owned: dict[Bdf, Domid] | None = None) -> tuple[PciDevice, ...]:
    """Every PCI function, by address.  A function that vanishes while it is read is left out."""
    entries = pyudev.Context().list_devices(subsystem="pci")
    found = [function(entry.sys_path, owned or {}) for entry in entries]
    return tuple(sorted((device for device in found if device is not None), key=lambda device: device.bdf))


class Monitor:
    """Changes to the host's PCI functions: plugged, unplugged, bound, unbound."""

    def __init__(self) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context())
        self._monitor.filter_by(subsystem="pci")
        self._monitor.start()

    def fileno(self) -> int:
        """To be polled for reading."""
        return int(self._monitor.fileno())

    def drain(self) -> list[tuple[str, str]]:
        """What has happened since: (action, address) pairs."""
        found = []
        while (device := self._monitor.poll(timeout=0)) is not None:
            found.append((str(device.action), str(device.sys_name)))
        return found
