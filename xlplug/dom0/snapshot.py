# SPDX-License-Identifier: LGPL-2.1-only
"""This host, as planning sees it: PCI functions, memory map, firmware, Xen's version."""

import os

from xlplug.config.domain import DomainConfig
from xlplug.model.errors import XlplugError
from xlplug.model.host import MEMORY, HostNote, HostSnapshot, MemRegion, XenInfo
from xlplug.model.hypervisor import Store
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.lib import running_capabilities

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.model.addr import Domid
    from xlplug.model.bdf import Bdf
    from xlplug.model.host import PciDevice


def take(
    xen: "XenCtrl | None", store: Store | None, config: DomainConfig | None = None, *, stubdom: bool = False
) -> HostSnapshot:
    """This host, as far as it can be read; ``notes`` say what could not.

    With a ``config`` only what its plan looks at is read, which is quick.  ``stubdom``: it has a stubdomain, even if the
    configuration does not say so.
    """
    from xlplug.dom0 import pci
    from xlplug.dom0.os_release import distribution

    memory, notes = _memory(xen)
    owned = pci.owners(store) if store is not None and (config is None or config.pci or config.delegate) else None
    devices, left_out, assigned = _functions(config, owned)
    notes += left_out
    opregion = vbios = pin = None
    mmcfg: tuple[Range, ...] = ()
    asked = devices if config is None else _with_firmware(config, assigned, stubdom=stubdom or config.stubdom)
    if asked:
        from xlplug.dom0 import firmware, opregion_pin

        mmcfg = firmware.read_mmcfg()
        opregion, vbios, firmware_notes = firmware.read_firmware(devices, memory, mmcfg=mmcfg, asked=asked)
        notes += firmware_notes
        pin = opregion_pin.remember(opregion)
    return HostSnapshot(
        name=os.uname().nodename,
        devices=devices,
        memory=memory,
        opregion=opregion,
        vbios=vbios,
        xen=None if xen is None else XenInfo(xen.version, xen.version_text, running_capabilities()),
        libraries=_libraries() if config is None else (),
        notes=tuple(notes),
        provenance="recorded by xlplug on the host itself",
        mmcfg=mmcfg,
        opregion_pin=pin,
        distribution=distribution(),
        kept_ports=_kept_ports(xen, config),
    )


def _kept_ports(xen: "XenCtrl | None", config: DomainConfig | None) -> RangeSet | None:
    """What dom0 lacks of the ports of a configuration, or of all."""
    wanted = (Range(0, 0x10000),) if config is None else config.ioports
    if xen is None or not wanted:
        return None
    from xlplug.dom0.kept_ports import kept_ports

    return kept_ports(wanted, xen)


def _memory(xen: "XenCtrl | None") -> tuple[tuple[MemRegion, ...], list[HostNote]]:
    """The machine's memory map, or a note that says why it could not be read."""
    if xen is None:
        return (), [HostNote(MEMORY, Problem("the machine's memory map was not read: not running on Xen"))]
    try:
        return xen.machine_memory_map(), []
    except XlplugError as error:
        problem = Problem(f"the machine's memory map was not read: {error.message}", error.hint)
        return (), [HostNote(MEMORY, problem)]


def _functions(
    config: DomainConfig | None, owned: "dict[Bdf, Domid] | None"
) -> "tuple[tuple[PciDevice, ...], tuple[HostNote, ...], tuple[PciDevice, ...]]":
    """What a configuration assigns, and the whole host where its plan depends on that; notes; what it assigns, alone."""
    from xlplug.dom0 import pci
    from xlplug.plan import needs_whole_host

    if config is None:
        return (*pci.everything(owned), ())
    wanted = tuple((e.bdf, e.all_functions) for e in config.pci if e.bdf is not None)
    named, notes = pci.functions((*wanted, *((spec.host, False) for spec in config.delegate)), owned)
    ours = {spec.host for spec in config.delegate}
    assigned = tuple(device for device in named if device.bdf not in ours)
    return (*(pci.everything(owned) if needs_whole_host(config, assigned) else (named, notes)), assigned)


def _with_firmware(
    config: DomainConfig, assigned: "tuple[PciDevice, ...]", *, stubdom: bool
) -> "tuple[PciDevice, ...]":
    """Those of the assigned functions that are planned with what firmware left in memory, which only /dev/mem shows.

    Host 00:02.0, because of the OpRegion and because QEMU wants its VBIOS; and, because a stubdomain gets a right on as much
    as the VBIOS's header says, the display that the machine was booted with.
    """
    from xlplug.igd import IGD

    shadow = stubdom and config.gfx_passthru is not None
    return tuple(device for device in assigned if device.bdf == IGD or (shadow and device.boot_vga))


def _libraries() -> tuple[tuple[str, str], ...]:
    """Xen's libraries by soname, where they lie."""
    found: dict[str, str] = {}
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if name.startswith(("libxenctrl.so.", "libxenstore.so.", "libxendevicemodel.so.", "libxentoollog.so.")):
                found.setdefault(name, f"{folder}/{name}")
    return tuple(sorted(found.items()))
