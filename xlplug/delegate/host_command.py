# SPDX-License-Identifier: LGPL-2.1-only
"""The host's command register while a function is delegated: it decodes its BARs and never masters the bus."""

import contextlib
import os

from xlplug.delegate.config_space import BUS_MASTER, COMMAND, DECODE_IO, DECODE_MEMORY
from xlplug.delegate.host_device import is_held
from xlplug.model.bdf import Bdf
from xlplug.model.errors import HostError

__all__ = ["HostCommand"]


class HostCommand:
    """Sets it, and gives back what was there, but for bus mastering.

    pciback clears it when it takes a device from a driver, and sysfs ``enable`` is busy under pciback: so the register itself.

    Raises:
        HostError: it cannot be written, or bus mastering does not go off.
    """

    def __init__(self, sys_pci: str, host: Bdf) -> None:
        self._sys_pci, self._host = sys_pci, host
        self._path = f"{sys_pci}/{host}/config"
        try:
            self._before = self._exchange(None)
            wanted = self._before & ~BUS_MASTER | DECODE_IO | DECODE_MEMORY
            now = self._exchange(wanted)
        except OSError as error:
            raise HostError(
                f"{self._path}: {error.strerror}", hint="is the kernel locked down?", code="XLP703"
            ) from error
        if now & BUS_MASTER:
            self.restore()
            raise HostError(
                f"{host} does not give up bus mastering",
                hint="do not delegate it: it could write anywhere",
                code="XLP705",
            )

    def restore(self) -> None:
        """Put back what was there; nothing to do when the device is gone, and nothing of ours when dom0 has it again."""
        if not is_held(self._sys_pci, self._host):
            return
        with contextlib.suppress(OSError):
            self._exchange(self._before & ~BUS_MASTER)

    def _exchange(self, value: int | None) -> int:
        """What the register holds, after writing ``value`` to it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if value is not None:
                os.pwrite(fd, value.to_bytes(2, "little"), COMMAND)
            return int.from_bytes(os.pread(fd, 2, COMMAND), "little")
        finally:
            os.close(fd)
