# SPDX-License-Identifier: LGPL-2.1-only
"""What QEMU, libxl, hvmloader or Xen will refuse or spoil, though every grant is made: one warning each.

Policy only.  docs/obstacles.md has the same table with the sources.  A warning is for what will not work: a configuration that
works gives none.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.igd import ASLS, IGD, has_opregion
from xlplug.model.addr import PAGE_SHIFT, page_span
from xlplug.model.host import IORESOURCE_MEM_64, ROM_INDEX, VBIOS, VBIOS_SHADOW, HostSnapshot, PciDevice, Resource
from xlplug.model.problem import Problem
from xlplug.vga import VENDOR_INTEL, can_own_legacy_vga

__all__ = ["OBSTACLES", "Scene", "may_share_a_page", "obstacles"]

_CLASS_VGA = 0x030000
_CLASS_DISPLAY_OTHER = 0x038000
_IGD_BY_0380 = (4, 20)  # first libxl that takes class 0380 for an IGD: commit 4191619e08
_TOUCHING = (4, 23)  # first Xen that refuses port mappings which touch: xen/arch/x86/domctl.c

#: Config register of the expansion ROM, and its address bits.  Source: PCI Local Bus Specification 3.0, 6.2.5.2.
_ROM_REGISTER = 0x30
_ROM_ADDRESS = 0xFFFFF800

#: hvmloader's hole for BARs below 4 GiB, in bytes: where it begins at the latest, and where it ends.  It doubles the hole as long
#: as no guest RAM is in the way.  Source: tools/firmware/hvmloader/pci.c, pci_setup; config.h, PCI_MEM_START and PCI_MEM_END.
_HOLE_STARTS = (0xF0000000, 0xE0000000, 0xC0000000, 0x80000000)
_HOLE_STOP = 0xFC000000
_4_GIB = 1 << 32
#: How a header reads that nobody answers for.  Vendor and device alone read so in every virtual function.
#: Source: PCI Local Bus Specification 3.0, 6.1; SR-IOV Specification 1.1, 3.4.1.
_NO_ANSWER = b"\xff" * 16
_MIB = 1 << 20
_PLATFORM_BAR = 16 * _MIB  # the Xen platform device: QEMU hw/i386/xen/xen_platform.c
_LARGEST_HOLE = 3840  # MiB, xl.cfg(5)


class Scene(NamedTuple):
    """What the obstacles are looked for in: ``devices`` are the assigned functions.

    ``needless``: it is said already that gfx_passthru is to be removed.
    """

    config: DomainConfig
    host: HostSnapshot
    devices: tuple[PciDevice, ...]
    has_stubdom: bool
    needless: bool = False

    @property
    def passes_displays(self) -> tuple[PciDevice, ...]:
        """The assigned displays that QEMU treats as the guest's screen."""
        if self.config.gfx_passthru is None:
            return ()
        return tuple(device for device in self.devices if can_own_legacy_vga(device))

    def older_than(self, version: tuple[int, int]) -> bool:
        """Whether Xen is older, or its version not known."""
        return self.host.xen is None or self.host.xen.version < version

    def at_least(self, version: tuple[int, int]) -> bool:
        """Whether Xen is of this version, later, or of one that is not known."""
        return self.host.xen is None or self.host.xen.version >= version


Obstacle = Callable[[Scene], Iterator[Problem]]


def obstacles(scene: Scene) -> tuple[Problem, ...]:
    """Every obstacle's warnings, in the order of `OBSTACLES`; only HVM guests have a device model that they concern."""
    if scene.config.type != "hvm":
        return ()
    return tuple(problem for obstacle in OBSTACLES for problem in obstacle(scene))


def does_not_answer(scene: Scene) -> Iterator[Problem]:
    """A function that sleeps (D3cold), or that has fallen off its bus, reads as ones."""
    for device in scene.devices:
        if device.config[:16] == _NO_ANSWER:
            text = f"{device.bdf}: it does not answer: its configuration space reads ff"
            yield Problem(
                text, "wake it (echo on > power/control in its folder in sysfs), or reboot the host", code="XLP333"
            )


def slot_2_needs_gfx_passthru(scene: Scene) -> Iterator[Problem]:
    """QEMU takes host 0000:00:02.0 for an integrated display, and refuses it without igd-passthru."""
    for device in scene.devices:
        if device.bdf != IGD:
            continue
        if not can_own_legacy_vga(device):
            text = f"{IGD}: stock QEMU takes this address for an integrated display and refuses anything else there"
            yield Problem(text, "no stock QEMU passes this device through", code="XLP321")
        elif scene.config.gfx_passthru is None:
            text = f"{IGD}: stock QEMU refuses this display without gfx_passthru ('Need to enable igd-passthru')"
            yield Problem(text, 'write gfx_passthru="igd"', code="XLP322")


def class_0380(scene: Scene) -> Iterator[Problem]:
    """Newer Intel displays say "other display controller", which only Qubes OS takes for a VGA in all its parts."""
    for device in () if scene.host.is_qubes else scene.devices:
        if device.bdf == IGD and can_own_legacy_vga(device) and device.class_code >> 8 == _CLASS_DISPLAY_OTHER >> 8:
            yield Problem(
                f"{IGD}: stock QEMU refuses class 0380 at this address, and hvmloader offers such a display no OpRegion",
                "use a QEMU and a hvmloader that are patched for it, as those of Qubes OS are",
                code="XLP324",
            )


def no_igd_for_libxl(scene: Scene) -> Iterator[Problem]:
    """``gfx_passthru=1`` lets libxl look for an Intel display, and fails where it finds none."""
    config = scene.config
    if config.gfx_passthru != "default" or not scene.passes_displays or scene.needless:
        return
    intel = [device for device in scene.devices if device.vendor == VENDOR_INTEL]
    if any(device.class_code == _CLASS_VGA for device in intel):
        return
    late = [device for device in intel if device.class_code == _CLASS_DISPLAY_OTHER]
    if not late:
        text = f"{scene.passes_displays[0].bdf}: xl itself refuses gfx_passthru=1 without an Intel display"
        yield Problem(text, 'write gfx_passthru="igd"', code="XLP323")
    elif scene.older_than(_IGD_BY_0380) and not scene.host.is_qubes:
        text = f"{late[0].bdf}: libxl before 4.20 does not take class 0380 for an Intel display, and refuses gfx_passthru=1"
        yield Problem(text, 'write gfx_passthru="igd"', code="XLP324")


def no_vbios(scene: Scene) -> Iterator[Problem]:
    """QEMU loads the VBIOS of 00:02.0 before all else, from sysfs ``rom``, and refuses the device without one."""
    for device in scene.passes_displays:
        if device.bdf != IGD or (isinstance(scene.config.rom, str) and not scene.has_stubdom):
            continue
        advice = 'give it a file: xlplug_rom="FILE" (see docs/igd.md)'
        if scene.has_stubdom:
            advice = "put its VBIOS into the stubdomain as sysfs 'rom' (see docs/igd.md)"
        if device.rom is None or not device.rom.has_address:
            text = f"{IGD}: it has no ROM in sysfs, so QEMU finds no VBIOS and refuses it ('VGA: Can't get VBIOS')"
            yield Problem(text, advice, code="XLP325")
        elif device.rom.start == VBIOS_SHADOW.start and scene.host.vbios is None:
            why = scene.host.why_unread(VBIOS)
            yield Problem(
                f"{IGD}: QEMU needs its VBIOS and may find none: {why.what}", why.advice or advice, code="XLP325"
            )


def rom_not_programmed(scene: Scene) -> Iterator[Problem]:
    """Linux may keep an address for a ROM without writing it into the device; libxl grants that address all the same."""
    for device in scene.devices:
        rom, register = device.rom, device.config_u32(_ROM_REGISTER)
        if rom is None or register is None or not can_own_legacy_vga(device):
            continue
        if rom.has_address and rom.start != VBIOS_SHADOW.start and register & _ROM_ADDRESS != rom.start:
            path = f"/sys/bus/pci/devices/{device.bdf}/rom"
            yield Problem(
                f"{device.bdf}: its ROM is not at the address that Linux keeps for it (register 30 has {register:x}, sysfs "
                f"{rom.start:x}), so the guest will not find a VBIOS there",
                f"let Linux program it once: echo 1 >{path}; cat {path} >/dev/null; echo 0 >{path}",
                code="XLP326",
            )


def opregion_at_zero(scene: Scene) -> Iterator[Problem]:
    """hvmloader asks for an OpRegion of every Intel VGA, and QEMU maps what the register says without a look at it."""
    for device in scene.passes_displays:
        if (
            device.vendor != VENDOR_INTEL
            or device.class_code >> 8 != _CLASS_VGA >> 8
            or has_opregion(device) is not False
            or device.config[:16] == _NO_ANSWER
        ):
            continue
        does = "asks in vain for" if scene.has_stubdom else "gives the guest"
        advice = "remove gfx_passthru: only an integrated display, at 00:02.0, needs it"
        if any(other.bdf == IGD for other in scene.devices):
            advice = "give this card to another guest, without gfx_passthru"
        if device.bdf == IGD:
            advice = "update the firmware, or switch its display on there"
        text = f"{device.bdf}: it has no OpRegion (register {ASLS:x} is {device.config_u32(ASLS):x}), and QEMU does not check"
        yield Problem(f"{text}: it {does} host pages that are not one", advice, code="XLP327")


def emulated_card(scene: Scene) -> Iterator[Problem]:
    """An emulated card and the host's display claim the same ranges."""
    if scene.passes_displays and scene.config.vga != "none":
        yield Problem(
            f"vga={scene.config.vga}: an emulated card beside a passed-through display: they claim the same VGA ranges, and with "
            "QEMU 7.2 and earlier hvmloader offers no OpRegion",
            'write vga="none"',
            code="XLP328",
        )


def mmio_hole(scene: Scene) -> Iterator[Problem]:
    """32-bit BARs must fit below 4 GiB, beside those of the emulated devices."""
    sizes = [_power_of_two(r.stop - r.start) for device in scene.devices for r in _below_4_gib(device)]
    if not sizes:
        return
    needed = sum(sizes) + _PLATFORM_BAR
    if scene.config.vga != "none":
        needed += _power_of_two(scene.config.videoram or 1) * _MIB
    room = _HOLE_STOP - _hole_start(scene.config)
    if needed <= room:
        return
    wanted = -(-(needed + _4_GIB - _HOLE_STOP) // (256 * _MIB)) * 256
    advice = f"write mmio_hole={wanted}" if wanted <= _LARGEST_HOLE else "assign fewer devices"
    text = f"32-bit BARs of {needed // _MIB} MiB do not fit into the guest's MMIO hole, which has room for {room // _MIB} MiB"
    yield Problem(text, advice, code="XLP329")


def _below_4_gib(device: PciDevice) -> Iterator[Resource]:
    """Memory BARs that only take a 32-bit address, and the ROM."""
    for r in device.resources:
        if r.line <= ROM_INDEX and not r.is_port and not r.flags & IORESOURCE_MEM_64:
            yield r


def _hole_start(config: DomainConfig) -> int:
    if config.mmio_hole:
        return _4_GIB - config.mmio_hole * _MIB
    ram = min(max(0, config.maxmem - config.videoram) * _MIB, _HOLE_STARTS[0])
    return min(start for start in _HOLE_STARTS if start >= ram)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def shared_pages(scene: Scene) -> Iterator[Problem]:
    """A page is the least that can be given away; SUPPORT.md has no security support for devices that share one."""
    mine = {device.bdf for device in scene.devices}
    pages: dict[int, str] = {}
    for device in scene.host.devices:
        if device.bdf in mine:
            continue
        for bar in _memory_bars(device):
            first, count = page_span(bar.start, bar.stop)
            pages[first] = pages[first + count - 1] = f"{device.bdf} (BAR {bar.line})"
    for device in scene.devices:
        for bar in _memory_bars(device):
            first, count = page_span(bar.start, bar.stop)
            for page in dict.fromkeys((first, first + count - 1)):
                if page in pages:
                    text = (
                        f"{device.bdf} (BAR {bar.line}) shares page {page:x} with {pages[page]}, which is not assigned"
                    )
                    yield Problem(
                        f"{text}: the guest can reach that device's registers", "assign both, or neither", code="XLP330"
                    )


def may_share_a_page(device: PciDevice) -> bool:
    """Whether a BAR of the function leaves room in a page for another one."""
    page = (1 << PAGE_SHIFT) - 1
    return any(bar.start & page or bar.stop & page for bar in _memory_bars(device))


def _memory_bars(device: PciDevice) -> Iterator[Resource]:
    return (r for r in device.resources if r.line < ROM_INDEX and not r.is_port and r.has_address)


def touching_port_bars(scene: Scene) -> Iterator[Problem]:
    """Xen 4.23 takes a port mapping that touches another one for an overlap and answers EBUSY.

    So the second BAR of such a pair never works (xen/arch/x86/domctl.c, XEN_DOMCTL_ioport_mapping; seen with two e1000).
    """
    if not scene.at_least(_TOUCHING):
        return
    bars = sorted(
        (r.start, r.stop, f"{device.bdf} (BAR {r.line})")
        for device in scene.devices
        for r in device.resources
        if r.is_port and r.has_address
    )
    for one, two in pairwise(bars):
        if one[1] >= two[0]:
            text = f"I/O BARs of {one[2]} and {two[2]} touch at port {two[0]:x}"
            yield Problem(
                f"{text}: Xen 4.23 and later refuse the second mapping with EBUSY",
                "assign only one of them to this guest",
                code="XLP331",
            )


def bars_without_address(scene: Scene) -> Iterator[Problem]:
    """A BAR that the firmware left at 0 cannot be mapped for anybody."""
    for device in scene.devices:
        found = [r for r in device.resources if r.line < ROM_INDEX and not r.has_address]
        if not found:
            continue
        names = ", ".join(f"{r.line}{' (I/O)' if r.is_port else ''}" for r in found)
        advice = "switch on above-4G decoding in the firmware's setup, or take out other cards"
        yield Problem(
            f"{device.bdf}: the firmware gave BAR {names} no address, so the guest cannot use it", advice, code="XLP332"
        )


#: All obstacles, in the order in which they are printed.  docs/obstacles.md has a row for each.
OBSTACLES: tuple[Obstacle, ...] = (
    does_not_answer,
    slot_2_needs_gfx_passthru,
    class_0380,
    no_igd_for_libxl,
    no_vbios,
    rom_not_programmed,
    opregion_at_zero,
    emulated_card,
    mmio_hole,
    shared_pages,
    touching_port_bars,
    bars_without_address,
)
