# SPDX-License-Identifier: LGPL-2.1-only
"""Which display the legacy VGA cycles of this host reach.

There is one such display at most, and the grants are worth something for that one only.  Given to a guest for another
display, they hand it the owner's screen.  So this is computed once, from what was seen of the whole host, and everybody asks
here: plan, grant, create, watch and doctor.

Policy only.  The rules are those of Linux's VGA arbiter (drivers/pci/vgaarb.c), which reads the same bits.
"""

from collections.abc import Iterable
from typing import NamedTuple

from xlplug.model.bdf import Bdf
from xlplug.model.host import PCIBACK, PciDevice
from xlplug.vga import can_own_legacy_vga

__all__ = ["Ownership", "driven_by_dom0", "legacy_owner", "may_answer", "shows_dom0"]

#: Config space, in bytes.  Source: PCI Local Bus Specification 3.0, 6.2; PCI-to-PCI Bridge Specification 1.2, 3.2.
_COMMAND = 0x04  # bit 0 decodes I/O ports, bit 1 memory
_DECODES = 0x3
_SECONDARY_BUS = 0x19
_BRIDGE_CONTROL = 0x3E
_VGA_ENABLE = 1 << 3
_BRIDGE_HEADER = 0x40  # bytes that a bridge's header takes
_CLASS_BRIDGE = 0x0604
_CLASS_VGA = 0x0300

#: How legacy VGA cycles get to a display, from worst to best: a bridge above it does not forward them; a bridge above it was
#: not seen; it is on the root bus; every bridge above it forwards them, which takes precedence over the root bus.
_CUT_OFF, _UNKNOWN, _ROOT_BUS, _FORWARDED = range(4)


class Ownership(NamedTuple):
    """``owner`` is the display that legacy VGA cycles reach; None when that is not known, or when they reach none.

    ``possible`` are the displays that it may be: the owner alone when it is known, nobody when they reach none.
    """

    owner: PciDevice | None
    possible: tuple[PciDevice, ...]


def legacy_owner(devices: Iterable[PciDevice]) -> Ownership:
    """The owner among all functions of a host, bridges included.

    First the bridges decide, then whether a display decodes anything at all, then ``boot_vga``, which is what the kernel
    found out at boot by the same rules, or from the firmware's frame buffer.
    """
    everything = tuple(devices)
    bridges = _bridges(everything)
    routes = {device.bdf: _route(device, bridges) for device in everything if can_own_legacy_vga(device)}
    possible = [device for device in everything if routes.get(device.bdf, _CUT_OFF) != _CUT_OFF]
    possible = [device for device in possible if may_answer(device)] or possible
    if any(routes[device.bdf] == _FORWARDED for device in possible):
        possible = [device for device in possible if routes[device.bdf] == _FORWARDED or _is_live_screen(device)]
    boot = [device for device in possible if device.boot_vga]
    possible = boot if len(boot) == 1 else possible
    if len(possible) == 1 and _is_evident(possible[0], routes[possible[0].bdf]):
        return Ownership(possible[0], tuple(possible))
    return Ownership(None, tuple(possible))


def driven_by_dom0(device: PciDevice) -> bool:
    """Whether a driver of dom0's uses the function, so that its screen is dom0's."""
    return device.owner is None and device.driver not in (None, PCIBACK)


def shows_dom0(device: PciDevice) -> bool:
    """Whether dom0's screen is on the display: dom0 drives it, or started with it and nobody has taken it since.

    Linux's text console and the firmware's frame buffer bind to no PCI function, so sysfs shows no driver where they draw.
    Source: Linux drivers/video/console/vgacon.c; drivers/firmware/sysfb.c, which makes the platform device of efifb and simpledrm.
    """
    if device.owner is not None or device.driver is not None:
        return driven_by_dom0(device)
    return bool(device.boot_vga) and may_answer(device)


def _is_live_screen(device: PciDevice) -> bool:
    """Whether dom0 started with the display, shows itself on it, and it decodes, which no open bridge elsewhere outweighs.

    An Intel display that decodes comes before all bridges, and one of class 0380 does not take part.  Source: Intel's processor
    datasheets, volume 2: what the bridges' bits decide is "not mapped to IGD"; GGC, bit IVD, for the class.
    """
    return bool(device.boot_vga) and shows_dom0(device) and _decodes(device) and device.class_code >> 8 == _CLASS_VGA


def may_answer(device: PciDevice) -> bool:
    """Whether the display may answer to legacy cycles: not if its decoding is off.

    A display that dom0's driver uses at boot counts in any case, and so does one whose config space was not read.
    """
    if device.boot_vga and driven_by_dom0(device):
        return True
    return _command(device) is None or _decodes(device)


def _is_evident(device: PciDevice, route: int) -> bool:
    """Whether anything positive speaks for the last display left, other than that it is the last."""
    if device.boot_vga or route == _FORWARDED:
        return True
    return route == _ROOT_BUS and _decodes(device)


def _command(device: PciDevice) -> int | None:
    """The command register; None where config space was not read, or all ones are read: a function that sleeps."""
    raw = device.config[_COMMAND : _COMMAND + 2]
    if len(raw) < 2 or raw == b"\xff\xff":
        return None
    return int.from_bytes(raw, "little")


def _decodes(device: PciDevice) -> bool:
    return bool((_command(device) or 0) & _DECODES)


def _bridges(devices: Iterable[PciDevice]) -> dict[tuple[int, int], PciDevice]:
    """PCI-to-PCI bridges by segment and secondary bus."""
    found = {}
    for device in devices:
        if device.class_code >> 8 == _CLASS_BRIDGE and len(device.config) >= _BRIDGE_HEADER:
            secondary = device.config[_SECONDARY_BUS]
            if secondary:
                found[device.bdf.segment, secondary] = device
    return found


def _route(device: PciDevice, bridges: dict[tuple[int, int], PciDevice]) -> int:
    """How legacy cycles get to the display."""
    segment, bus = device.bdf[:2]
    above: set[Bdf] = set()
    while (bridge := bridges.get((segment, bus))) is not None and bridge.bdf not in above:
        if not bridge.config[_BRIDGE_CONTROL] & _VGA_ENABLE:
            return _CUT_OFF
        above.add(bridge.bdf)
        bus = bridge.bdf.bus
    if above:
        return _FORWARDED
    return _ROOT_BUS if bus == 0 else _UNKNOWN
