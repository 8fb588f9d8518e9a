# SPDX-License-Identifier: LGPL-2.1-only
"""Intel's OpRegion and the VBIOS shadow: what may be granted of each, and what must be refused.

Policy only.  dom0/firmware.py has read the headers; nothing in them is believed here without a check,
because a wrong page is a page of the host's memory in the guest's hands.
"""

from xlplug.model.addr import page_span
from xlplug.model.host import OPREGION, VBIOS, VBIOS_SHADOW, HostSnapshot, OpRegion, PciDevice
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import IOMEM, STUBDOM, Right

__all__ = ["ASLS", "opregion_pages", "opregion_rights", "vbios_rights"]

#: Config register that holds the OpRegion's host address.  Source: Intel OpRegion specification; xen_pt_config_init.c,
#: XEN_PCI_INTEL_OPREGION.
ASLS = 0xFC

_SIGNATURE = b"IntelGraphicsMem"  # Source: Linux drivers/vfio/pci/vfio_pci_igd.c, OPREGION_SIGNATURE.
#: Upper bound on what a header may claim.  Every OpRegion seen is 8 KiB and the largest VBT some tens of KiB (its length
#: field is 16 bits wide); more is a corrupt header.
_LIMIT = 1 << 20


def opregion_pages(region: OpRegion) -> RangeSet:
    """The mfns that hold the OpRegion and its extended VBT.

    Version 2.0 gives the VBT's absolute host address, 2.1 and later one relative to the OpRegion (vfio_pci_igd.c).

    Raises:
        ValueError: the header cannot be true; the text says why.
    """
    if region.signature.rstrip(b"\0") != _SIGNATURE:
        raise ValueError(f"no OpRegion signature at {region.maddr:#x}")
    if not 0 < region.size <= _LIMIT:
        raise ValueError(f"OpRegion header claims {region.size} bytes")
    spans = [(region.maddr, region.maddr + region.size)]
    if region.version >= 0x0200 and region.rvda and region.rvds:
        if region.rvds > _LIMIT:
            raise ValueError(f"OpRegion header claims an extended VBT of {region.rvds} bytes")
        start = region.rvda if region.version == 0x0200 else region.maddr + region.rvda
        spans.append((start, start + region.rvds))
    pages = []
    for start, stop in spans:
        if stop > 1 << 52:  # x86's architectural limit on physical addresses: Intel SDM volume 3, 4.1.4
            raise ValueError(f"OpRegion header points beyond physical memory, to {start:#x}")
        first, count = page_span(start, stop)
        pages.append((first, first + count))
    return RangeSet(pages)


def opregion_rights(
    device: PciDevice, host: HostSnapshot, grantees: tuple[str, ...]
) -> tuple[tuple[Right, ...], Problem | None]:
    """Rights on the OpRegion for each grantee, and None; or no rights, and why they are refused.

    No rights and no refusal where the host has no OpRegion (register 0 or all ones).
    """
    address = device.config_u32(ASLS)
    if address in (0, 0xFFFFFFFF):
        return (), None
    if address is None:
        return (), Problem(
            f"{device.bdf}: config register 0xfc (OpRegion) cannot be read", "run xlplug as root in dom0"
        )
    region = host.opregion
    if region is None:
        why = host.why_unread(OPREGION)
        return (), Problem(f"{device.bdf}: OpRegion at {address:#x}: {why.what}", why.advice)
    if region.maddr != address:
        return (), Problem(
            f"{device.bdf}: OpRegion is at {address:#x} but a header at {region.maddr:#x} was read",
            "record the host again",
        )
    try:
        pages = opregion_pages(region)
    except ValueError as error:
        return (), Problem(f"{device.bdf}: malformed OpRegion: {error}", "update the firmware, or set gfx_passthru=0")
    reserved = host.reserved
    for mfns in pages:
        if not reserved.covers(mfns.start << 12, mfns.stop << 12):
            where = f"mfn={mfns} (host bytes {mfns.start << 12:#x} to {(mfns.stop << 12) - 1:#x})"
            remedy = "update the firmware, or set gfx_passthru=0"
            if not host.memory:
                remedy = "run xlplug as root in dom0, where the host's memory map is known"
            return (), Problem(f"{device.bdf}: OpRegion at {where} is not wholly in host-reserved memory", remedy)
    return (
        tuple(
            Right(
                IOMEM,
                mfns,
                grantee,
                "Intel OpRegion" if i == 0 or len(pages) == 1 else "Intel OpRegion, second range",
                device.bdf,
            )
            for grantee in grantees
            for i, mfns in enumerate(pages)
        ),
        None,
    )


def vbios_rights(device: PciDevice, host: HostSnapshot) -> tuple[tuple[Right, ...], Problem | None]:
    """Right on the VBIOS shadow, for the stubdomain only, and None; or none and a warning.

    Only the boot VGA has its ROM at 0xc0000.  Never the target's: the shadow is writable RAM of the host's.
    """
    rom = device.rom
    if not device.boot_vga or rom is None or rom.start != VBIOS_SHADOW.start:
        return (), None
    vbios = host.vbios
    if vbios is None:
        why = host.why_unread(VBIOS)
        return (), Problem(f"{device.bdf}: VBIOS shadow not granted to the stubdomain: {why.what}", why.advice)
    stop = vbios.maddr + vbios.size
    if vbios.maddr != VBIOS_SHADOW.start or not VBIOS_SHADOW.start < stop <= VBIOS_SHADOW.stop or stop > rom.stop:
        return (), Problem(
            f"{device.bdf}: VBIOS shadow not granted to the stubdomain: its header claims {vbios.size} bytes at "
            f"{vbios.maddr:#x}, more than the ROM's {rom.stop - rom.start}"
        )
    if vbios.vendor != device.vendor:
        return (), Problem(
            f"{device.bdf}: VBIOS shadow not granted to the stubdomain: the ROM at {vbios.maddr:#x} is made for vendor "
            f"{vbios.vendor:04x}, the device is {device.vendor:04x}"
        )
    first, count = page_span(vbios.maddr, stop)
    return (Right(IOMEM, Range(first, first + count), STUBDOM, "VBIOS shadow", device.bdf),), None
