# SPDX-License-Identifier: LGPL-2.1-only
"""libudev through pyudev, whose only importer this is: when a PCI function comes, goes, or gets another driver."""

import errno
import os
import socket

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
        """What has happened since the last call: (action, address) pairs; ("lost", "") where there was more than fitted.

        Raises:
            OSError: the connection is gone.
        """
        found = []
        while True:
            try:
                device = self._monitor.poll(timeout=0)
            except OSError:
                if self._error() != errno.ENOBUFS:
                    raise
                found.append(("lost", ""))
                continue
            if device is None:
                return found
            found.append((str(device.action), str(device.sys_name)))

    def _error(self) -> int:
        """What is wrong with the socket, which the kernel then forgets: ENOBUFS after more events than its buffer holds."""
        with socket.socket(fileno=os.dup(self.fileno())) as same:
            return same.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
