# SPDX-License-Identifier: LGPL-2.1-only
"""libudev through pyudev, whose only importer this is: when a PCI function comes, goes, or gets another driver."""

import pyudev

__all__ = ["Monitor"]


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
