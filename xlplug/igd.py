# SPDX-License-Identifier: LGPL-2.1-only
"""Intel's OpRegion and the VBIOS shadow: what may be granted of each, and what must be refused.

Policy only.  The headers were read by dom0/firmware.py.  A guest that was granted an OpRegion can write it, header and all, so
nothing that the header says decides what the next guest gets: a wrong page is a page of the host's memory in its hands.
"""

from typing import NamedTuple

from xlplug.model.addr import PAGE_SHIFT, page_span
from xlplug.model.bdf import Bdf
from xlplug.model.host import E820_FIRMWARE, E820_RAM, OPREGION, VBIOS, VBIOS_SHADOW, HostSnapshot, OpRegion, PciDevice
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range
from xlplug.model.steps import IOMEM, STUBDOM, Right
from xlplug.registers import register_ranges
from xlplug.vga import VENDOR_INTEL, can_own_legacy_vga

__all__ = [
    "ASLS", "IGD", "OPREGION_PAGES", "OPREGION_REASON", "OpRegionRights", "has_opregion", "header_fault", "is_igd", "opregion_mfns",
    "opregion_rights", "page_fault", "vbios_rights", "vbt_span",
]  # fmt: skip

#: Where Intel's integrated display always is.  QEMU and hvmloader go by this address too: hw/xen/xen_pt.c, xen_pt_realize.
IGD = Bdf(0, 0, 2, 0)
#: Config register that holds the OpRegion's host address.  Source: Intel OpRegion specification; xen_pt_config_init.c,
#: XEN_PCI_INTEL_OPREGION.
ASLS = 0xFC
_NO_ADDRESS = (0, 0xFFFFFFFF)  # what the register holds where there is no OpRegion

#: Pages that QEMU permits and maps, in one call that Xen refuses as a whole if one page may not be had: 8 KiB from any address
#: span three.  Source: QEMU hw/xen/xen_pt_graphics.c, igd_write_opregion, XEN_PCI_INTEL_OPREGION_PAGES; the same from 5.2 to 11.1.
OPREGION_PAGES = 3
OPREGION_REASON = "Intel OpRegion"
_SIGNATURE = b"IntelGraphicsMem"  # Source: Linux drivers/vfio/pci/vfio_pci_igd.c, OPREGION_SIGNATURE.
_SIZE = 8 << 10  # bytes.  Source: Intel OpRegion specification; i915's intel_opregion.c, OPREGION_SIZE.
_EXTENDED_VBT = 0x0200  # first version with RVDA and RVDS; up to this one RVDA is absolute.  Source: vfio_pci_igd.c

_FIRMWARE = "update the firmware"


class OpRegionRights(NamedTuple):
    """The rights on an OpRegion; or none, and why: a warning where only it is lost, a refusal where something is wrong."""

    rights: tuple[Right, ...] = ()
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()


def is_igd(device: PciDevice) -> bool:
    """Whether the function is Intel's integrated display: an Intel display elsewhere is a card, which has no OpRegion."""
    return device.bdf == IGD and device.vendor == VENDOR_INTEL and can_own_legacy_vga(device)


def has_opregion(device: PciDevice) -> bool | None:
    """Whether the register has an address; None where it was not read."""
    address = device.config_u32(ASLS)
    return None if address is None else address not in _NO_ADDRESS


def opregion_mfns(address: int) -> Range:
    """The pages that QEMU maps for an OpRegion at host byte ``address``."""
    first = address >> PAGE_SHIFT
    return Range(first, first + OPREGION_PAGES)


def opregion_rights(device: PciDevice, host: HostSnapshot, grantees: tuple[str, ...]) -> OpRegionRights:
    """Rights on the OpRegion of an integrated display for each grantee.

    No rights and no word where the host has none.
    """
    address = device.config_u32(ASLS)
    if address is None:
        what = f"{device.bdf}: config register fc (OpRegion) cannot be read"
        return OpRegionRights(refusals=(Problem(what, "run xlplug as root in dom0", code="XLP401"),))
    if address in _NO_ADDRESS:
        return OpRegionRights()
    where = f"{device.bdf}: OpRegion at {address:x}"
    if host.opregion_pin is not None and host.opregion_pin != address:
        text = f"{where}: it was at {host.opregion_pin:x} when it was first seen since boot"
        return OpRegionRights(
            refusals=(Problem(text, "reboot the host; the address must not change while it runs", code="XLP402"),)
        )
    if not host.memory:
        advice = "run xlplug as root in dom0, where the host's memory map is known"
        return OpRegionRights(
            refusals=(Problem(f"{where}: the host's memory map was not read", advice, code="XLP401"),)
        )
    mfns = opregion_mfns(address)
    faults = [(mfn, why) for mfn in range(*mfns) if (why := page_fault(mfn, host))]
    if faults and faults[0][0] < mfns.last:
        mfn, why = faults[0]
        text = f"{where}: its page {mfn:x} is {why}, and must be memory of the firmware's"
        return OpRegionRights(refusals=(Problem(text, _FIRMWARE, code="XLP403"),))
    fault = _header_problem(where, address, host)
    if fault is not None:
        return OpRegionRights(refusals=(fault,))
    if faults:
        return OpRegionRights(warnings=(_third_page(where, *faults[0], with_stubdom=STUBDOM in grantees),))
    rights = tuple(Right(IOMEM, mfns, grantee, OPREGION_REASON, device.bdf) for grantee in grantees)
    return OpRegionRights(rights, _vbt_warnings(where, mfns, host.opregion))


def page_fault(mfn: int, host: HostSnapshot) -> str:
    """What speaks against granting a page as a part of an OpRegion; "" when nothing does.

    The page must lie in one entry of the machine's E820, of a type that means memory of the firmware's.
    """
    start, stop = mfn << PAGE_SHIFT, (mfn + 1) << PAGE_SHIFT
    entries = [m for m in host.memory if m.start < stop and start < m.stop]
    if not entries:
        return "in no entry of the E820 map"
    kinds = sorted({m.kind for m in entries})
    if any(kind not in E820_FIRMWARE for kind in kinds):
        return " and ".join("RAM" if kind == E820_RAM else f"E820 type {kind}" for kind in kinds)
    if len(entries) > 1 or start < entries[0].start or entries[0].stop < stop:
        return "not wholly in one entry of the E820 map"
    for span, name in register_ranges(host):
        if span.start < stop and start < span.stop:
            return f"a register of {name}"
    return ""


def header_fault(region: OpRegion) -> str:
    """Why this is not the header of an OpRegion; "" if it is one."""
    if region.signature.rstrip(b"\0") != _SIGNATURE:
        return "it has no OpRegion signature"
    if region.size != _SIZE:
        return f"its header claims {region.size} bytes, not {_SIZE}"
    return ""


def _header_problem(where: str, address: int, host: HostSnapshot) -> Problem | None:
    region = host.opregion
    if region is None:
        why = host.why_unread(OPREGION)
        return Problem(f"{where}: {why.what}", why.advice, code="XLP401")
    if region.maddr != address:
        return Problem(f"{where}, but a header at {region.maddr:x} was read", "record the host again", code="XLP407")
    why_not = header_fault(region)
    if not why_not:
        return None
    if host.opregion_pin is not None:
        advice = "a guest has overwritten it: reboot the host"
        return Problem(
            f"{where}: {why_not}, and had a good header when it was first seen since boot", advice, code="XLP404"
        )
    return Problem(
        f"{where}: malformed OpRegion: {why_not}",
        f"{_FIRMWARE}; if a guest had it before, reboot the host",
        code="XLP404",
    )


def _third_page(where: str, mfn: int, why: str, *, with_stubdom: bool) -> Problem:
    """QEMU's one call is for three pages, so two of them are worth nothing."""
    does = "Xen refuses that call to a stubdomain" if with_stubdom else "a QEMU in dom0 maps it all the same"
    return Problem(
        f"{where}: QEMU maps three pages, and the third one, {mfn:x}, is {why}: no OpRegion for the guest ({does})",
        f"{_FIRMWARE}, or do without: the guest's driver then guesses which outputs there are",
        code="XLP405",
    )


def vbt_span(region: OpRegion) -> Range | None:
    """Host bytes of the extended VBT as the header claims them; None where it claims none.  Only to warn and to read by."""
    if region.version < _EXTENDED_VBT or not region.rvda or not region.rvds:
        return None
    start = region.rvda if region.version == _EXTENDED_VBT else region.maddr + region.rvda
    return Range(start, start + region.rvds)


def _vbt_warnings(where: str, mfns: Range, region: OpRegion | None) -> tuple[Problem, ...]:
    vbt = None if region is None else vbt_span(region)
    if vbt is None or (mfns.start <= vbt.start >> PAGE_SHIFT and (vbt.stop - 1) >> PAGE_SHIFT < mfns.stop):
        return ()
    return (
        Problem(
            f"{where}: its VBT ({vbt.nr} bytes at {vbt.start:x}) ends beyond the three pages that QEMU and hvmloader map, so a "
            "Linux guest finds none and may show nothing",
            "save it with 'xlplug record host --vbt VBT', put it into the guest's /lib/firmware, and boot the guest with "
            "i915.vbt_firmware=VBT", code="XLP406"),
    )  # fmt: skip


def vbios_rights(device: PciDevice, host: HostSnapshot) -> tuple[tuple[Right, ...], Problem | None]:
    """Right on the VBIOS shadow, for the stubdomain only, and None; or none and a warning.

    Only the boot VGA has its ROM at 0xc0000.  Never the target's: the shadow is writable RAM of the host's.
    """
    rom = device.rom
    if rom is None or rom.start != VBIOS_SHADOW.start:
        return (), None
    vbios = host.vbios
    if vbios is None:
        why = host.why_unread(VBIOS)
        return (), Problem(
            f"{device.bdf}: VBIOS shadow not granted to the stubdomain: {why.what}", why.advice, code="XLP408"
        )
    stop = vbios.maddr + vbios.size
    if vbios.maddr != VBIOS_SHADOW.start or not VBIOS_SHADOW.start < stop <= VBIOS_SHADOW.stop or stop > rom.stop:
        return (), Problem(
            f"{device.bdf}: VBIOS shadow not granted to the stubdomain: its header claims {vbios.size} bytes at "
            f"{vbios.maddr:x}, more than the ROM's {rom.stop - rom.start}",
            code="XLP408",
        )
    if vbios.vendor != device.vendor:
        return (), Problem(
            f"{device.bdf}: VBIOS shadow not granted to the stubdomain: the ROM at {vbios.maddr:x} is made for vendor "
            f"{vbios.vendor:04x}, the device is {device.vendor:04x}",
            code="XLP408",
        )
    first, count = page_span(vbios.maddr, stop)
    return (Right(IOMEM, Range(first, first + count), STUBDOM, "VBIOS shadow", device.bdf),), None
