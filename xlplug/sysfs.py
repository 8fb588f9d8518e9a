# SPDX-License-Identifier: LGPL-2.1-only
"""The host's PCI functions through pyudev, whose only importer this is, and who owns them according to xenstore.

libudev hands out attributes as C strings, so binary ones (``config``) are read as files below ``sys_path``.
"""

import os

import pyudev

from xlplug.addr import Domid
from xlplug.bdf import Bdf
from xlplug.errors import ConfigError
from xlplug.host import PciDevice, Resource
from xlplug.hypervisor import Store

__all__ = ["devices", "owners"]

_CONFIG_BYTES = 256  # conventional config space; extended space holds serial numbers, and nothing we need
_BACKEND = "/local/domain/0/backend/pci"  # pciback's nodes: <domid>/0/{num_devs,dev-N}; libxl_pci.c


def devices(owned: dict[Bdf, Domid] | None = None) -> tuple[PciDevice, ...]:
    """Every PCI function, by address.  A function that vanishes while it is read is left out."""
    found = []
    for entry in pyudev.Context().list_devices(subsystem="pci"):
        try:
            found.append(_device(entry, owned or {}))
        except (OSError, KeyError, ValueError, ConfigError):
            if os.path.exists(entry.sys_path):
                raise
    return tuple(sorted(found, key=lambda device: device.bdf))


def _device(entry: "pyudev.Device", owned: dict[Bdf, Domid]) -> PciDevice:
    bdf = Bdf.parse(entry.sys_name)
    boot_vga = entry.attributes.get("boot_vga")
    return PciDevice(
        bdf=bdf,
        vendor=int(entry.attributes.asstring("vendor"), 16),
        device=int(entry.attributes.asstring("device"), 16),
        class_code=int(entry.attributes.asstring("class"), 16),
        resources=_resources(entry.attributes.asstring("resource")),
        config=_config(entry.sys_path),
        boot_vga=None if boot_vga is None else boot_vga.strip() == b"1",
        physfn=_link_bdf(entry.sys_path, "physfn"),
        driver=entry.driver,
        iommu_group=_group(entry.sys_path),
        owner=owned.get(bdf),
    )


def _resources(text: str) -> tuple[Resource, ...]:
    """sysfs gives inclusive ends; an unused line is all zero."""
    found = []
    for index, line in enumerate(text.splitlines()):
        start, last, flags = (int(word, 16) for word in line.split())
        if flags and last >= start and last:
            found.append(Resource(index, start, last + 1, flags))
    return tuple(found)


def _config(sys_path: str) -> bytes:
    with open(os.path.join(sys_path, "config"), "rb") as file:
        return file.read(_CONFIG_BYTES)


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
    for name in store.list(_BACKEND):
        if not name.isdecimal():
            continue
        target = store.read(f"/local/domain/{name}/target")
        owner = Domid(int(target) if target and target.isdecimal() else int(name))
        for node in store.list(f"{_BACKEND}/{name}/0"):
            text = store.read(f"{_BACKEND}/{name}/0/{node}") if node.startswith("dev-") else None
            if text:
                found[Bdf.parse(text)] = owner
    return found
