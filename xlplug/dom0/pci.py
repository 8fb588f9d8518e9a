# SPDX-License-Identifier: LGPL-2.1-only
"""PCI functions read from their folders in sysfs, and who owns them according to xenstore.

Files only, so that reading one function takes a fraction of a millisecond.
"""

import os
from collections.abc import Iterable

from xlplug.dom0 import nodes
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, HostError
from xlplug.model.host import UNNAMED, HostNote, PciDevice, Resource
from xlplug.model.hypervisor import Store
from xlplug.model.problem import Problem

__all__ = ["SYS_PCI", "everything", "function", "functions", "owners", "several"]

SYS_PCI = "/sys/bus/pci/devices"
_SEGMENT_DIGITS = 4  # Linux numbers the segments behind Intel VMD from 10000 on: drivers/pci/controller/vmd.c
_ATTRIBUTE_BYTES = 4096  # sysfs gives an attribute in one read of at most a page: Documentation/filesystems/sysfs.rst
_CONFIG_BYTES = 256  # conventional config space; extended space holds serial numbers, and nothing we need


def functions(
    wanted: tuple[tuple[Bdf, bool], ...], owned: dict[Bdf, Domid] | None = None, sys_pci: str = SYS_PCI
) -> tuple[tuple[PciDevice, ...], tuple[HostNote, ...]]:
    """As `several`, the functions named: an address, and whether all functions of its slot are meant."""
    names: set[str] = set()
    for bdf, whole_slot in wanted:
        if whole_slot:
            slot = str(bdf).rpartition(".")[0]
            names |= {name for name in _names(sys_pci) if name.rpartition(".")[0] == slot}
        else:
            names.add(str(bdf))
    return several((f"{sys_pci}/{name}" for name in names), owned or {})


def everything(
    owned: dict[Bdf, Domid] | None = None, sys_pci: str = SYS_PCI
) -> tuple[tuple[PciDevice, ...], tuple[HostNote, ...]]:
    """As `several`, all functions of the host; none where there is no PCI."""
    return several((f"{sys_pci}/{name}" for name in _names(sys_pci)), owned or {})


def _names(sys_pci: str) -> list[str]:
    try:
        return os.listdir(sys_pci)
    except OSError:
        return []


def several(paths: Iterable[str], owned: dict[Bdf, Domid]) -> tuple[tuple[PciDevice, ...], tuple[HostNote, ...]]:
    """The functions in these folders, by address, and a note for each that cannot be read.  Absent ones are left out.

    One odd function must not keep the others from being planned with.
    """
    found: list[PciDevice] = []
    notes: list[HostNote] = []
    for path in paths:
        name = os.path.basename(path)
        if len(name.partition(":")[0]) > _SEGMENT_DIGITS:
            text = f"{name}: behind Intel VMD (a segment above ffff), so Xen and xl cannot name it"
            advice = "switch VMD off in the firmware's setup to pass it through"
            notes.append(HostNote(UNNAMED, Problem(text, advice)))
            continue
        try:
            device = function(path, owned)
        except HostError as error:
            notes.append(HostNote(name, Problem(error.message, error.hint)))
        else:
            found += [] if device is None else [device]
    return tuple(sorted(found, key=lambda device: device.bdf)), tuple(sorted(notes))


def function(path: str, owned: dict[Bdf, Domid]) -> PciDevice | None:
    """One function from its folder; None when there is none, or when it vanishes while it is read.

    None as well for what Xen has no address for: Linux numbers the segments of Intel's VMD from 0x10000 on.

    Raises:
        HostError: the kernel does not show what it must.
    """
    try:
        bdf = Bdf.parse(os.path.basename(path))
    except ConfigError:
        return None
    try:
        boot_vga = _read(path, "boot_vga")
        return PciDevice(
            bdf=bdf,
            vendor=_number(path, "vendor"),
            device=_number(path, "device"),
            class_code=_number(path, "class"),
            resources=_resources(_read(path, "resource") or ""),
            config=_config(path),
            boot_vga=None if boot_vga is None else boot_vga.strip() == "1",
            physfn=_link_bdf(path, "physfn"),
            driver=_link(path, "driver"),
            iommu_group=_group(path),
            owner=owned.get(bdf),
        )
    except (OSError, ValueError, ConfigError) as error:
        if not os.path.exists(path):
            return None
        why = error.strerror if isinstance(error, OSError) else error
        raise HostError(
            f"PCI function {bdf} cannot be read: {why}", hint="see 'lspci -D' and dom0's kernel log", code="XLP305"
        ) from error


def _read(path: str, name: str) -> str | None:
    """An attribute's text, None where there is none.  A host has hundreds of them: a text file object costs twice as much."""
    try:
        return _bytes(f"{path}/{name}", _ATTRIBUTE_BYTES).decode("ascii")
    except FileNotFoundError:
        return None


def _bytes(path: str, limit: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _number(path: str, name: str) -> int:
    return int(_read(path, name) or "", 16)


def _resources(text: str) -> tuple[Resource, ...]:
    """sysfs gives inclusive ends; an unused line is all zero."""
    found = []
    for index, line in enumerate(text.splitlines()):
        start, last, flags = (int(word, 16) for word in line.split())
        if flags and last >= start and last:
            found.append(Resource(index, start, last + 1, flags))
    return tuple(found)


def _config(sys_path: str) -> bytes:
    return _bytes(f"{sys_path}/config", _CONFIG_BYTES)


def _link(sys_path: str, name: str) -> str | None:
    try:
        return os.path.basename(os.readlink(os.path.join(sys_path, name)))
    except OSError:
        return None


def _link_bdf(sys_path: str, name: str) -> Bdf | None:
    target = _link(sys_path, name)
    return None if target is None else Bdf.parse(target)


def _group(sys_path: str) -> int | None:
    target = _link(sys_path, "iommu_group")
    return int(target) if target is not None and target.isdecimal() else None


def owners(store: Store) -> dict[Bdf, Domid]:
    """Which domain each assigned function belongs to.

    A function passed through a stubdomain is listed for the stubdomain and for its target; the target is the owner.
    """
    found: dict[Bdf, Domid] = {}
    for name in store.list(nodes.PCI_BACKEND):
        number = nodes.domid_in(name)
        if number is None:
            continue
        target = nodes.domid_in(store.read(nodes.target(number)))
        for node in store.list(nodes.pci_devices(name)):
            text = store.read(f"{nodes.pci_devices(name)}/{node}") if node.startswith("dev-") else None
            try:
                found[Bdf.parse(text or "")] = number if target is None else target
            except ConfigError:
                continue  # not an address: no function is assigned by it
    return found
