# SPDX-License-Identifier: LGPL-2.1-only
"""What ``xlplug doctor`` has seen on this dom0: frozen values, read by the surveys and judged by the checks.

No I/O and no policy here.  Everything that can be damaged is a `Reading`: the value itself, or a `Missing`.
"""

from datetime import date
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.doctor.reading import Reading, Unread
from xlplug.model.bdf import Bdf
from xlplug.model.host import PciDevice
from xlplug.model.problem import Problem
from xlplug.plan import Plan

__all__ = [
    "ConfigFacts",
    "Facts",
    "Firmware",
    "Hook",
    "InstalledFile",
    "Named",
    "Wrapper",
]


_NOT_ASKED = Unread("it was not looked at")


class Named(NamedTuple):
    """A library, Python module or special file that must be there; the reading says where it is or which version."""

    name: str
    found: Reading[str]


class Firmware(NamedTuple):
    """What firmware has left for displays: the headers that were read, one phrase each, and those that could not be."""

    read: tuple[str, ...] = ()
    notes: tuple[Problem, ...] = ()


class InstalledFile(NamedTuple):
    """A file of the hook's manifest: ``state`` is "", "missing", "changed" or "not executable"."""

    path: str
    state: str = ""


class Wrapper(NamedTuple):
    """The device model wrapper that ran: which version of xlplug it found."""

    version: str


class Hook(NamedTuple):
    """The hook into ``xl create``.

    ``first`` is the first xl in PATH, None when there is none, and ``hooked`` whether it is our front end; ``program`` the
    xlplug that the front end starts; ``files`` what the manifest below ``prefix`` names, empty when nothing is installed;
    ``fits`` what the device model needs of Xen's libraries, where the running Xen has it; ``library`` the preload library for a
    QEMU in dom0, None where it is not installed, which is in order.
    """

    first: str | None = None
    hooked: bool = False
    prefix: str = ""
    files: Reading[tuple[InstalledFile, ...]] = ()
    real_xl: Reading[str] = _NOT_ASKED
    program: Reading[str] = _NOT_ASKED
    wrapper: Reading[str] = _NOT_ASKED
    ran: Reading[Wrapper] = _NOT_ASKED
    device_model: Reading[str] = _NOT_ASKED
    fits: Reading[str] = _NOT_ASKED
    library: str | None = None


class ConfigFacts(NamedTuple):
    """A configuration that was given, and the plan for it as ``xlplug create`` makes it beforehand.

    ``sole_vga``: True when no other domain holds the VGA ports, or the plan has none.  ``hotplug`` is the ``passthrough``
    setting, "" where there is none, None where the configuration is libxl's JSON, which does not keep it.  ``kernel`` and
    ``ramdisk`` are a Linux stubdomain's, None where the domain has none.  ``fits`` is as in `Hook`.
    """

    path: str
    config: Reading[DomainConfig]
    plan: Reading[Plan] = _NOT_ASKED
    device_model: Reading[str] = _NOT_ASKED
    sole_vga: Reading[bool] = True
    hotplug: str | None = None
    kernel: Reading[str] | None = None
    ramdisk: Reading[str] | None = None
    fits: Reading[str] = _NOT_ASKED


class Facts(NamedTuple):
    """Everything that was looked at.

    ``version`` is Xen's (major, minor) with its full text in ``version_text``; ``control`` whether this is the control
    domain; ``domctl`` the number of domains, once Xen has accepted the library's domain control calls; ``store`` what
    xenstored says of domain 0; ``directio`` whether Xen has an IOMMU in use; ``console_room`` the bytes of its console ring,
    None where they do not show; ``assignable`` pciback's functions;
    ``damaged`` why a PCI function could not be read, ``unnamed`` why xl cannot name one; ``distribution`` the ID
    of os-release(5); ``built`` when Xen was compiled, None where that is not known; ``arbiter`` the line of
    /dev/vga_arbiter; ``watcher`` the pid of a running ``xlplug watch``, None when there is none.
    """

    euid: int
    python: tuple[int, int, int] = (0, 0, 0)
    modules: tuple[Named, ...] = ()
    version: Reading[tuple[int, int]] = _NOT_ASKED
    version_text: str = ""
    control: Reading[bool] = _NOT_ASKED
    nodes: tuple[Named, ...] = ()
    library: Reading[str] = _NOT_ASKED
    domctl: Reading[int] = _NOT_ASKED
    libraries: tuple[Named, ...] = ()
    store: Reading[str] = _NOT_ASKED
    directio: Reading[bool] = _NOT_ASKED
    console_room: Reading[int | None] = _NOT_ASKED
    assignable: Reading[tuple[Bdf, ...]] = _NOT_ASKED
    devices: Reading[tuple[PciDevice, ...]] = _NOT_ASKED
    damaged: tuple[Problem, ...] = ()
    unnamed: tuple[Problem, ...] = ()
    distribution: str = ""
    built: date | None = None
    arbiter: Reading[str] = _NOT_ASKED
    dev_mem: Reading[str] = _NOT_ASKED
    firmware: Reading[Firmware] = _NOT_ASKED
    hook: Reading[Hook] = _NOT_ASKED
    watcher: Reading[int | None] = _NOT_ASKED
    configs: tuple[ConfigFacts, ...] = ()
