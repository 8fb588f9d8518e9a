# SPDX-License-Identifier: LGPL-2.1-only
"""The typed meaning of a domain's configuration, from xl's text or from libxl's JSON, with libxl's defaults.

Only what planning reads is here.  Source of keys and defaults: tools/xl/xl_parse.c, parse_config_data;
tools/libs/light/libxl_create.c, libxl__domain_build_info_setdefault.  The keys named here (`MAP_LEGACY_KEY` and others) are
ours; xl ignores keys that it does not know.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from xlplug.config.delegated import Spec
from xlplug.model.bdf import Bdf
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range

__all__ = [
    "DEFAULT_MAXMEM",
    "MAX_MIB",
    "VIDEORAM",
    "default_videoram",
    "with_args",
    "DELEGATE_KEY",
    "HIDE_ROM_LINE_KEY",
    "MAP_LEGACY_KEY",
    "PRELOAD_KEY",
    "ROM_KEY",
    "DomainConfig",
    "IomemRange",
    "PciAssignment",
    "Vif",
    "not_for_us",
    "passes_igd",
]

MAP_LEGACY_KEY = "xlplug_map_legacy"  #: 1: map the VGA set ourselves, for device models that do not or may not
PRELOAD_KEY = "xlplug_preload"  #: 1: the device model runs with our preload library, so its RAM is ours to populate

ROM_KEY = "xlplug_rom"  #: a file: the display's VBIOS; 0: QEMU reads the host's by itself; default: we read it for QEMU
DELEGATE_KEY = "xlplug_delegate"  #: a list of "BDF[,vslot=NN]": functions that our own device model serves (xlplug dm)
HIDE_ROM_LINE_KEY = "xlplug_hide_rom_line"  #: 0: QEMU sees the ROM's line in sysfs, at which QEMU 10 aborts

#: Video RAM in MiB: (default, minimum) by emulated card.  Source: libxl_create.c, LIBXL_VGA_INTERFACE_TYPE cases.
VIDEORAM = {
    "qemu-xen": {"none": (0, 0), "cirrus": (8, 8), "stdvga": (16, 16), "qxl": (128, 128)},
    "qemu-xen-traditional": {"none": (0, 0), "cirrus": (4, 4), "stdvga": (8, 8), "qxl": (0, 0)},
}
DEFAULT_MAXMEM = 32  #: MiB, when neither memory nor maxmem is given.  Source: libxl_create.c.
MAX_MIB = 1 << 28  #: 48 bits of guest address: Xen loses the pages beyond (docs/semantics.md)


class PciAssignment(NamedTuple):
    """One entry of ``pci``, global flags applied.  ``bdf`` is None for an entry by ``name``."""

    bdf: Bdf | None
    name: str | None = None
    all_functions: bool = False
    permissive: bool = False
    seize: bool = False

    def names(self, bdf: Bdf) -> bool:
        """Whether the function is this one, or one of this slot's where all are meant."""
        return self.bdf == bdf or (self.all_functions and self.bdf is not None and self.bdf[:3] == bdf[:3])

    def __str__(self) -> str:
        if self.bdf is None:
            return f"name={self.name}"
        return str(self.bdf)[:-1] + "*" if self.all_functions else str(self.bdf)


class IomemRange(NamedTuple):
    """One entry of ``iomem``: ``nr`` pages from ``mfn``, which libxl maps at ``gfn``."""

    mfn: int
    nr: int
    gfn: int


class Vif(NamedTuple):
    """One entry of ``vif``: ``type`` (ioemu or vif; "" is the default) and the emulated ``model``."""

    type: str = ""
    model: str = "rtl8139"


class DomainConfig(NamedTuple):
    """What a configuration asks for.  Sizes in MiB; ``gfx_passthru`` is None, "default" or "igd"; ``rom`` a file or a switch.

    ``igd_by_args``: only QEMU's arguments ask for it, as with libvirt, so libxl grants nothing for it.
    """

    name: str = ""
    type: str = "pv"
    memory: int = DEFAULT_MAXMEM
    maxmem: int = DEFAULT_MAXMEM
    videoram: int = 0
    vga: str = "cirrus"
    gfx_passthru: str | None = None
    igd_by_args: bool = False
    pci: tuple[PciAssignment, ...] = ()
    iomem: tuple[IomemRange, ...] = ()
    ioports: tuple[Range, ...] = ()
    irqs: tuple[int, ...] = ()
    vifs: tuple[Vif, ...] = ()
    serials: tuple[str, ...] = ()
    usb: bool = False
    soundhw: tuple[str, ...] = ()
    mmio_hole: int | None = None
    device_model_version: str = "qemu-xen"
    device_model_override: str | None = None
    stubdom: bool = False
    stubdomain_kernel: str | None = None
    stubdomain_ramdisk: str | None = None
    stubdomain_cmdline: str | None = None
    stubdomain_memory: int | None = None
    dm_restrict: bool = False
    device_model_args: tuple[str, ...] = ()
    rdm: bool = False
    map_legacy: bool = False
    preload: bool = False
    rom: str | bool = True
    hide_rom_line: bool = True
    delegate: tuple[Spec, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def wants_legacy(self) -> bool:
        """Whether there is anything for us to do: everything else is libxl's and the device model's alone.

        hooks/xl searches configs for the words that can make this true.  A new setting begins with ``xlplug_``, which is one of
        them, or has to be added there and to tests/property/test_front_end.py.
        """
        asked = bool(self.ioports or self.delegate)
        wanted = self.gfx_passthru is not None or self.map_legacy or self.preload or asked
        return self.type == "hvm" and wanted


def not_for_us(config: DomainConfig) -> Problem | None:
    """Why nothing can be granted to a device model of another kind than QEMU; None where it is QEMU."""
    if config.device_model_version == "qemu-xen":
        return None
    return Problem(
        f"legacy rights are for device_model_version qemu-xen, and this is {config.device_model_version}",
        'write device_model_version="qemu-xen"',
        "XLP210",
    )


def passes_igd(arguments: Sequence[str]) -> bool:
    """Whether QEMU's arguments pass a display through: the machine option that ``gfx_passthru`` becomes."""
    return any(option == "-machine" and "igd-passthru=on" in value.split(",") for option, value in pairwise(arguments))


def with_args(config: DomainConfig) -> DomainConfig:
    """The configuration, with ``gfx_passthru`` set where its arguments for QEMU do the same."""
    if config.type == "hvm" and config.gfx_passthru is None and passes_igd(config.device_model_args):
        return config._replace(gfx_passthru="igd", igd_by_args=True)
    return config


def default_videoram(given: int | None, vga: str, version: str) -> int:
    """Video RAM in MiB as libxl sets it: what was given, but not less than the emulated card needs."""
    default, minimum = VIDEORAM[version][vga]
    return default if given is None else max(given, minimum)
