# SPDX-License-Identifier: LGPL-2.1-only
"""Reads what ``xlplug doctor`` judges of Xen: its version, its libraries, its devices, and xenstored."""

import os
from contextlib import AbstractContextManager, ExitStack
from typing import Literal, TypeVar

from xlplug.doctor.facts import Named
from xlplug.doctor.places import Doors, OpenXen, Places
from xlplug.doctor.reading import Broken, Missing, Reading, Skipped, Unread, after, tried
from xlplug.doctor.survey_xenstored import xenstored_answer
from xlplug.model.host import MemRegion
from xlplug.model.hypervisor import Store

__all__ = ["XenSide"]

T = TypeVar("T")
_LIBRARIES = ("xenstore", "xendevicemodel", "xentoollog")  # those with a stable interface


class XenSide:
    """Xen and xenstored, opened once, or why not.

    What is `Skipped` names the line of the report that says why.
    """

    def __init__(self, places: Places, doors: Doors, stack: ExitStack) -> None:
        self.places = places
        self.doors = doors
        self.stack = stack
        self.euid = doors.euid()
        self.version: Reading[tuple[int, int, str]] = tried(self._version)
        self.control: Reading[bool] = after("xen", self.version, lambda _: self._control())
        self.library: Reading[str] = after("xen", self.version, self._ctrl_library)
        may = self._may_ask()
        self.xen: Reading[OpenXen] = (
            may if isinstance(may, Missing) else after("libxenctrl", self.library, self._open_xen)
        )
        self.domctl: Reading[int] = (
            self.xen if isinstance(self.xen, Missing) else tried(lambda xen: len(xen.domains()), self.xen)
        )
        self.answer: Reading[str] = may if isinstance(may, Missing) else xenstored_answer(doors.store)
        self.store: Reading[Store] = after("xenstored", self.answer, lambda _: self._open(doors.store()))

    def _open(self, door: AbstractContextManager[T]) -> T:
        return self.stack.enter_context(door)

    def _open_xen(self, _: str) -> OpenXen:
        return self._open(self.doors.xen())

    def _version(self) -> tuple[int, int, str]:
        from xlplug.xen.lib import running_version

        return running_version(self.places.sys_hypervisor)

    def _control(self) -> bool | Missing:
        try:
            with open(self.places.capabilities, encoding="ascii", errors="replace") as file:
                return "control_d" in file.read()
        except OSError as error:
            return Broken(f"{self.places.capabilities}: {error.strerror}", "mount it: mount -t xenfs xenfs /proc/xen")

    def _may_ask(self) -> Reading[Literal[True]]:
        """Whether Xen and xenstored can be tried at all."""
        if isinstance(self.version, Missing):
            return Skipped("xen")
        if self.euid != 0:
            return Skipped("root")
        return True if self.control is True else Skipped("dom0")

    def _ctrl_library(self, version: tuple[int, int, str]) -> str:
        major, minor, _ = version
        self.doors.ctrl(major, minor)
        return f"libxenctrl.so.{major}.{minor} has every call"

    def libraries(self) -> tuple[Named, ...]:
        """Xen's libraries with a stable interface."""

        def load(name: str) -> str:
            self.doors.stable(name)
            return "loads"

        return tuple(Named(f"lib{name}", tried(load, name)) for name in _LIBRARIES)

    def nodes(self) -> tuple[Named, ...]:
        """The special files, or xenstored's socket."""
        privcmd, xenbus = f"{self.places.dev}/xen/privcmd", f"{self.places.dev}/xen/xenbus"
        return (
            Named("privcmd", after("xen", self.version, lambda _: self._usable("modprobe xen-privcmd", privcmd))),
            Named(
                "xenbus",
                after(
                    "xen",
                    self.version,
                    lambda _: self._usable(
                        "start it: systemctl start xenstored (Debian: xen)", self.places.store_socket, xenbus
                    ),
                ),
            ),
        )

    def _usable(self, advice: str, *paths: str) -> str | Missing:
        """The first of the paths that is there, when it may be read and written."""
        path = next((path for path in paths if os.path.exists(path)), None)
        if path is None:
            return Broken(
                f"neither {' nor '.join(paths)} exists" if len(paths) > 1 else f"{paths[0]} is missing", advice
            )
        if os.access(path, os.R_OK | os.W_OK):
            return path
        return Skipped("root") if self.euid != 0 else Broken(f"{path} cannot be read and written", "look at its mode")

    def directio(self) -> Reading[bool]:
        """Whether Xen has an IOMMU in use."""
        found = after("domain control", self.xen, lambda xen: xen.directio())
        if found is None:
            return Unread("this Xen's xc_physinfo is not as this xlplug knows it", "see virt_caps in 'xl info'")
        return found

    def console_room(self) -> Reading[int | None]:
        """Bytes of Xen's console ring, None where they do not show."""
        return after("domain control", self.xen, lambda xen: xen.console_room())

    def memory(self) -> Reading[tuple[MemRegion, ...]]:
        """The machine's memory map."""
        return after("domain control", self.xen, lambda xen: xen.machine_memory_map())
