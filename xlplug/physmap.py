# SPDX-License-Identifier: LGPL-2.1-only
"""Guest RAM that QEMU itself populates, unless the toolstack has: video RAM and option ROMs.  Which, and at which gfns.

Policy only.  Stock QEMU populates in any case, over what is there, and Xen then loses the first pages; so this is for a
device model that runs with our preload library (``xlplug_preload=1``), before it starts, and for nobody else.

The rule, after QEMU's find_ram_offset (softmmu/physmem.c; system/physmem.c from 8.2) and xen_ram_init
(hw/i386/xen/xen-hvm.c): guest RAM is one block from 0, which ends at R = maxmem - videoram when that fits below the MMIO
hole, at 4 GiB + R - (start of the hole) otherwise; each block that follows starts at the next multiple of 256 KiB.
tests/recorded/xen_ram_alloc.json has QEMU's own trace of it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.model.addr import Domid
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import POPULATE_PHYSMAP, TARGET, Step

__all__ = ["Block", "Physmap", "plan_physmap", "predict", "ram"]


_MIB = 1 << 8  # in pages
_4_GIB = 1 << 20
#: Where the MMIO hole below 4 GiB begins at the latest.  Source: xen/include/public/hvm/e820.h, HVM_BELOW_4G_RAM_END.
_HOLE = 0xF0000
#: From here up to 4 GiB: ACPI tables, hvmloader's own pages, special pages, the IO-APIC, the local APIC.  Below, from
#: `_HOLE` on, is where a guest will put its BARs, but nothing is there before it runs, and QEMU populates there.
#: Source: tools/firmware/hvmloader/config.h, RESERVED_MEMBASE.
_RESERVED = Range(0xFC000, _4_GIB)
#: 48 bits of guest address: Xen loses the pages beyond (docs/semantics.md).
_GFN_LIMIT = 1 << 36
#: Source: QEMU's find_ram_offset: BITS_PER_LONG << TARGET_PAGE_BITS, 256 KiB.
_ALIGN = 64

_VGABIOS = 16  # pages: every vgabios-*.bin is larger than 32 KiB and at most 64, and a ROM's size is a power of two
#: Pages of the option ROMs of NICs: efi-*.rom are all of 256 KiB, in Debian as in QEMU; pxe-eepro100.rom is of 128.
_NICS = {
    **dict.fromkeys(("e1000", "e1000e", "ne2k_pci", "pcnet", "rtl8139", "virtio-net", "virtio-net-pci", "vmxnet3"), 64),
    **dict.fromkeys(("i82551", "i82557b", "i82559er"), 32),
}
#: Devices and options of ``device_model_args`` that bring no RAM; an option takes one argument.
_NO_RAM = frozenset(("usb-kbd", "usb-mouse", "usb-tablet"))
_HARMLESS = frozenset(("-D", "-d", "-msg", "-trace"))


class Block(NamedTuple):
    """RAM that QEMU allocates at a fixed place: ``nr`` pages from gfn ``first``, and what for."""

    first: int
    nr: int
    reason: str

    @property
    def range(self) -> Range:
        """The gfns, half-open."""
        return Range(self.first, self.first + self.nr)


class Physmap(NamedTuple):
    """What to populate; ``notes`` say why less, ``refusals`` why the domain must not be made like this."""

    steps: tuple[Step, ...] = ()
    notes: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()


def plan_physmap(config: DomainConfig, target: Domid | None, *, has_stubdom: bool, ram_left: Problem | None) -> Physmap:
    """The steps for ``config``; ``ram_left`` is why nothing can be populated now, None where it can."""
    if config.type != "hvm" or not (config.preload or has_stubdom):
        return Physmap()
    blocks, unknown = predict(config)
    if not blocks and not unknown:
        return Physmap()
    why = Problem(unknown) if unknown else ram_left
    if not config.preload:
        why = Problem("xlplug_preload is not set", "write xlplug_preload=1 if its ramdisk has xlplug's preload library")
    if why is not None:
        text = f"video RAM and option ROMs are left to the device model: {why.what}"
        return Physmap(notes=(Problem(text, why.advice),))
    return Physmap(
        steps=tuple(Step(POPULATE_PHYSMAP, TARGET, target, b.first, b.nr, b.reason) for b in blocks),
        refusals=_conflicts(config, blocks),
    )


def ram(config: DomainConfig) -> RangeSet:
    """The gfns where libxl builds the guest, the hole for VGA included: nothing but the VGA memory goes there.

    Source: tools/libs/light/libxl_dom.c, libxl__build_hvm; the first MiB is never free.
    """
    pages, hole = _pages(config), _hole(config)
    above = max(0, pages - hole)
    return RangeSet(((0, max(_MIB, min(pages, hole))), (_4_GIB, _4_GIB + above)))


def predict(config: DomainConfig) -> tuple[tuple[Block, ...], str]:
    """The blocks in QEMU's order; or none, and why they cannot be known."""
    sizes, unknown = _sizes(config)
    if unknown:
        return (), unknown
    pages, hole = _pages(config), _hole(config)
    end = pages if pages <= hole else _4_GIB + pages - hole
    found = []
    for nr, reason in sizes:
        first = -(-end // _ALIGN) * _ALIGN
        found.append(Block(first, nr, reason))
        end = first + nr
    return tuple(found), ""


def _pages(config: DomainConfig) -> int:
    """QEMU's ``-m``.  Source: libxl_dm.c, libxl__build_device_model_args_new: max_memkb - video_memkb."""
    return max(0, config.maxmem - config.videoram) * _MIB


def _hole(config: DomainConfig) -> int:
    """First gfn of the MMIO hole.  Source: libxl_dm.c, max-ram-below-4g; QEMU takes the lower of the two."""
    return min(_HOLE, _4_GIB - (config.mmio_hole or 0) * _MIB)


def _sizes(config: DomainConfig) -> tuple[list[tuple[int, str]], str]:
    """Pages and reason of each block, in the order of QEMU's command line; or why they cannot be known."""
    if config.device_model_version != "qemu-xen":
        return [], f"they are not known for device_model_version {config.device_model_version}"
    if config.rdm:
        return [], "rdm= moves guest RAM, and the device model does not know of that"
    found = []
    video, unknown = _video(config)
    found += video
    models = [vif.model for vif in config.vifs if vif.type in ("", "ioemu")]
    extra, more = _extra_devices(config.device_model_args)
    for number, model in enumerate((*models, *extra)):
        if model in _NICS:
            found.append((_NICS[model], f"option ROM of NIC {number} ({model})"))
        elif model not in _NO_RAM:
            more = more or f"what a '{model}' needs is not known"
    return found, unknown or more


def _video(config: DomainConfig) -> tuple[list[tuple[int, str]], str]:
    """The emulated card's blocks.

    Source: QEMU hw/display/vga.c, vga_common_init; cirrus_vga.c, pci_cirrus_vga_realize; qxl.c, qxl_init_ramsize; and
    libxl_dm.c, which gives each of qxl's two areas half of videoram.
    """
    rom = (_VGABIOS, f"option ROM of the {config.vga} card")
    match config.vga:
        case "none":
            return [], ""
        case "stdvga":
            if config.videoram > 512:
                return [], f"stdvga has at most 512 MiB, and videoram is {config.videoram}"
            return [(_power_of_two(config.videoram) * _MIB, "video RAM"), rom], ""
        case "cirrus":
            if config.videoram not in (8, 16):
                return [], f"cirrus has 8 or 16 MiB, and videoram is {config.videoram}"
            return [(config.videoram * _MIB, "video RAM"), rom], ""
        case _:
            half = config.videoram // 2
            if half > 512:
                return [], f"qxl has at most twice 512 MiB, and videoram is {config.videoram}"
            area, surfaces = _power_of_two(max(half, 32)), _power_of_two(max(half, 64))
            return [
                (area * _MIB, "video RAM"), (2, "QXL ROM"), (surfaces * _MIB, "QXL surfaces"), rom,
            ], ""  # fmt: skip


def _power_of_two(number: int) -> int:
    """The number, or the next power of two above it."""
    return 1 << (number - 1).bit_length()


def _extra_devices(words: Iterable[str]) -> tuple[list[str], str]:
    """Models of ``-device`` in ``device_model_args`` and ``_hvm``; or why they are not known."""
    found = []
    rest = iter(words)
    for word in rest:
        value = next(rest, "")
        model, *properties = value.split(",")
        if word == "-device" and not any(text.startswith("rom") for text in properties):
            found.append(model)
        elif word not in _HARMLESS:
            return [], f"what device_model_args' '{word} {value}' needs is not known"
    return found, ""


def _conflicts(config: DomainConfig, blocks: Iterable[Block]) -> tuple[Problem, ...]:
    """Blocks that would lie over something: Xen would lose pages there, or crash the domain, for QEMU as for us."""
    taken = (
        ("in the guest's RAM", ram(config)),
        ("in the reserved pages below 4 GiB", RangeSet([_RESERVED])),
        ("where iomem= maps the host's memory", RangeSet((m.gfn, m.gfn + m.nr) for m in config.iomem)),
        ("beyond what a guest can address", RangeSet([(_GFN_LIMIT, 1 << 64)])),
    )
    return tuple(
        Problem(
            f"{block.reason} gfn={block.range} would lie {where}",
            "change memory, videoram, mmio_hole or iomem",
            code="XLP352",
        )
        for block in blocks
        for where, ranges in taken
        if ranges.overlaps(*block.range)
    )
