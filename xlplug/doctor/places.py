# SPDX-License-Identifier: LGPL-2.1-only
"""Where things are on a dom0 and how they are opened, so that tests can give the surveys a dom0 of files."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from xlplug.dom0 import pci
from xlplug.dom0.os_release import OS_RELEASE
from xlplug.model.host import MemRegion
from xlplug.model.hypervisor import DomainInfo, HeldRights, Store

__all__ = ["LIVE", "Doors", "OpenXen", "Places"]


class Places(NamedTuple):
    """Where things are on a dom0."""

    sys_hypervisor: str = "/sys/hypervisor"
    capabilities: str = "/proc/xen/capabilities"
    proc: str = "/proc"
    dev: str = "/dev"
    store_socket: str = "/run/xenstored/socket"
    sys_pci: str = pci.SYS_PCI
    pciback: str = "/sys/bus/pci/drivers/pciback"
    prefix: str = "/usr/local"
    os_release: str = OS_RELEASE


class OpenXen(Protocol):
    """What is read of the hypervisor."""

    def domains(self) -> list[DomainInfo]: ...
    def domain_info(self, domid: int) -> DomainInfo | None: ...
    def machine_memory_map(self) -> tuple[MemRegion, ...]: ...
    def held(self) -> dict[int, HeldRights]: ...
    def directio(self) -> bool | None: ...
    def ioport_permission(self, domid: int, first_port: int, nr_ports: int, *, allow: bool) -> None: ...
    def console_room(self) -> int | None: ...


class Doors(NamedTuple):
    """How things are opened: Xen, with its proof by a domctl; xenstored, once it is known to answer; libraries."""

    xen: Callable[[], AbstractContextManager[OpenXen]]
    store: Callable[[], AbstractContextManager[Store]]
    ctrl: Callable[[int, int], object]
    stable: Callable[[str], object]
    euid: Callable[[], int] = os.geteuid


def _open_xen() -> AbstractContextManager[OpenXen]:
    from xlplug.xen.ctrl import XenCtrl

    return XenCtrl()


def _open_store() -> AbstractContextManager[Store]:
    from xlplug.xen.store import XenStore

    return XenStore()


def _load_ctrl(major: int, minor: int) -> object:
    from xlplug.xen.lib import load_ctrl

    return load_ctrl(major, minor)


def _load_stable(name: str) -> object:
    from xlplug.xen.lib import load_stable

    return load_stable(name)


#: Imported when they are used: without cffi there is still much to report.
LIVE = Doors(_open_xen, _open_store, _load_ctrl, _load_stable)
