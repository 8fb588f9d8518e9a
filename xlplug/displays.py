# SPDX-License-Identifier: LGPL-2.1-only
"""Assigned displays: which of them gets the legacy VGA set, the OpRegion and the VBIOS, and what is said where it does not.

Policy only.  The rules: the VGA set goes to the display that legacy VGA cycles reach and to no other (vga_owner.py); the
OpRegion to an integrated display of Intel's (igd.py); what dom0's own screen depends on is never given away.
"""

from collections.abc import Sequence
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.igd import IGD, OPREGION_REASON, is_igd, opregion_rights, vbios_rights
from xlplug.model.addr import Domid
from xlplug.model.host import HostSnapshot, PciDevice
from xlplug.model.problem import Problem
from xlplug.model.steps import STUBDOM, Right
from xlplug.vga import can_own_legacy_vga, is_display, vga_rights
from xlplug.vga_owner import Ownership, legacy_owner, shows_dom0

__all__ = ["PURPOSES", "LegacyRights", "legacy_rights"]

#: What needs a right, by the beginning of its reason, the most wanted one first.
#: Source: QEMU docs/igd-assign.txt, the table of who needs what.
PURPOSES = (
    (OPREGION_REASON, "which outputs there are: for Linux, Windows, a VBIOS and a UEFI driver (GOP) alike"),
    ("VGA", "for a VBIOS and text consoles only: a UEFI guest, or one whose driver has started, does without"),
    ("VBIOS shadow", "for a device model that runs the VBIOS from there; a Linux stubdomain cannot reach it"),
)

_LET_START = "to give it the VGA set, make the firmware start with that display (its 'primary display' setting)"


class LegacyRights(NamedTuple):
    """What displays need.  ``owner`` is the assigned display that gets the VGA set, None when none does.

    ``needless``: no assigned display has any use for gfx_passthru, and it is said that it is to be removed.
    """

    rights: tuple[Right, ...] = ()
    owner: PciDevice | None = None
    notes: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()
    needless: bool = False


def legacy_rights(
    config: DomainConfig,
    host: HostSnapshot,
    devices: Sequence[PciDevice],
    grantees: tuple[str, ...],
    *,
    target: Domid | None,
    attach_later: bool,
) -> LegacyRights:
    """The rights for the assigned ``devices`` of ``target``, None before it is created.

    ``attach_later``: a display may come later, so none is not a mistake.
    """
    displays = [device for device in devices if can_own_legacy_vga(device)]
    if config.gfx_passthru is None:
        return LegacyRights(notes=tuple(_without_gfx(device) for device in displays if device.bdf != IGD))
    virtual = tuple(
        Problem(f"{device.bdf}: a virtual function of {device.physfn}: no legacy VGA for it", code="XLP313")
        for device in devices
        if device.physfn is not None and is_display(device)
    )
    if not displays:
        if attach_later and len(devices) < len(config.pci):
            return LegacyRights(warnings=virtual)  # one is missing, and that is refused elsewhere
        return _no_display(virtual, attach_later=attach_later)
    found = _vga(displays, legacy_owner(host.devices), grantees, target)
    found = found._replace(warnings=(*virtual, *found.warnings))
    for device in displays:
        if is_igd(device):
            opregion = opregion_rights(device, host, grantees)
            found = found._replace(
                rights=(*found.rights, *opregion.rights),
                warnings=(*found.warnings, *opregion.warnings),
                refusals=(*found.refusals, *opregion.refusals),
            )
    if found.owner is not None and STUBDOM in grantees:
        rights, warning = vbios_rights(found.owner, host)
        found = found._replace(rights=(*found.rights, *rights), warnings=(*found.warnings, *filter(None, (warning,))))
    return found


def _no_display(warnings: tuple[Problem, ...], *, attach_later: bool) -> LegacyRights:
    text = "gfx_passthru is set but no display device is assigned"
    if attach_later:
        later = Problem(f"{text}: nothing is granted until one is plugged in", "see 'xlplug watch'", code="XLP308")
        return LegacyRights(warnings=(*warnings, later))
    refusal = Problem(text, "add one to pci=, or remove gfx_passthru", code="XLP308")
    return LegacyRights(warnings=warnings, refusals=(refusal,))


def _without_gfx(device: PciDevice) -> Problem:
    return Problem(f"{device.bdf}: gfx_passthru is off, so no VGA set: only a VBIOS and text consoles need one")


def _vga(
    displays: Sequence[PciDevice], ownership: Ownership, grantees: tuple[str, ...], target: Domid | None
) -> LegacyRights:
    """The VGA set for the owner, if it is among the assigned ``displays``; for the others a word."""
    owner = ownership.owner
    if owner is None:
        return _owner_unknown(displays, ownership.possible, grantees, target)
    if any(device.bdf == owner.bdf for device in displays):
        others = [device for device in displays if device.bdf != owner.bdf]
        needing = [device for device in others if device.bdf == IGD]
        return LegacyRights(
            vga_rights(owner.bdf, grantees),
            owner,
            notes=tuple(
                Problem(f"{device.bdf}: secondary: legacy VGA cycles reach {owner.bdf}, which gets the VGA set")
                for device in others
                if device not in needing
            ),
            warnings=tuple(_needs_gfx(device, owner) for device in needing),
        )
    return _owner_elsewhere(displays, owner, target)


def _owner_elsewhere(displays: Sequence[PciDevice], owner: PciDevice, target: Domid | None) -> LegacyRights:
    """The owner is not assigned to this guest: nobody gets the VGA set, and where somebody's screen is on it, the plan is refused.

    Because libxl grants a0-bf for any display with gfx_passthru, and QEMU maps it, whether we grant anything or not.

    QEMU refuses host 0000:00:02.0 without gfx_passthru, so that one must go without; any other card needs no gfx_passthru.
    """
    needing = [device for device in displays if device.bdf == IGD]
    if needing:
        return LegacyRights(warnings=tuple(_needs_gfx(device, owner) for device in needing))
    cards = " and ".join(str(device.bdf) for device in displays)
    advice = "remove gfx_passthru: a second card needs none"
    who = _who_shows_on(owner, target)
    if who:
        text = f"{cards}: legacy VGA cycles reach {owner.bdf}, {who}"
        return LegacyRights(refusals=(Problem(text, advice, code="XLP309"),), needless=True)
    text = f"{cards}: no VGA set: legacy VGA cycles reach {owner.bdf}, which is not assigned to this guest"
    return LegacyRights(warnings=(Problem(text, advice, code="XLP310"),), needless=True)


def _who_shows_on(owner: PciDevice, target: Domid | None) -> str:
    """Whose screen the owner of legacy VGA is, and why; "" where it is nobody's, or the guest's own."""
    if owner.owner is not None:
        return "" if owner.owner == target else f"which domain {owner.owner} has: its VGA set is that domain's screen"
    if not shows_dom0(owner):
        return ""
    why = f"which dom0 drives ({owner.driver})" if owner.driver else "where dom0 has its console (boot_vga, no driver)"
    return f"{why}: its VGA set is dom0's screen"


def _needs_gfx(device: PciDevice, owner: PciDevice) -> Problem:
    by = f" (dom0's, {owner.driver or 'its console'})" if shows_dom0(owner) else ""
    return Problem(
        f"{device.bdf}: no VGA set: legacy VGA cycles reach {owner.bdf}{by}; QEMU refuses {device.bdf} without gfx_passthru, "
        "and up to Xen 4.22 a QEMU in dom0 takes the VGA set for itself all the same",
        _LET_START,
        code="XLP311",
    )


def _owner_unknown(
    displays: Sequence[PciDevice], possible: Sequence[PciDevice], grantees: tuple[str, ...], target: Domid | None
) -> LegacyRights:
    """Only where every display that may be the owner is this guest's own is there nothing to lose.

    Where somebody's screen may be on it the plan is refused, as in `_owner_elsewhere`.
    """
    if not possible:
        text = "legacy VGA cycles reach no display: the bridges above do not forward them (VGA enable): no VGA set"
        return LegacyRights(warnings=(Problem(text, _LET_START, code="XLP312"),))
    names = " or ".join(str(device.bdf) for device in possible)
    text = f"it is not known whether legacy VGA cycles reach {names}"
    mine = [device for device in displays if device in possible]
    if len(mine) == len(possible):
        warning = Problem(
            f"{text}: {mine[0].bdf} gets the VGA set, as if they reached it", "see boot_vga in sysfs", code="XLP312"
        )
        return LegacyRights(vga_rights(mine[0].bdf, grantees), mine[0], warnings=(warning,))
    advice = "run xlplug as root in dom0, or remove gfx_passthru if the card needs none"
    shown = [(device, who) for device in possible if device not in mine and (who := _who_shows_on(device, target))]
    if shown and not any(device.bdf == IGD for device in displays):
        refusal = Problem(f"{text}, and {shown[0][0].bdf} is one {shown[0][1]}", advice, code="XLP309")
        return LegacyRights(refusals=(refusal,), needless=True)
    return LegacyRights(warnings=(Problem(f"{text}: no VGA set for this guest", advice, code="XLP312"),))
