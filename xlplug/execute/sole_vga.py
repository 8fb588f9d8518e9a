# SPDX-License-Identifier: LGPL-2.1-only
"""Legacy VGA cycles reach one card only: whether another domain has the VGA ranges already.

Xen cannot be asked: its ``q`` dump is the only way to read rights back, does not show mappings, and does not fit into the
console ring of a host with a dozen guests.  So it is looked up who was granted them by us (the journals of the living
domains), and whose device model takes them by itself (a display, ``gfx_passthru``, and a QEMU in dom0).
"""

from xlplug.dom0 import nodes
from xlplug.execute.journal import REVOKED, Journal, is_vga
from xlplug.model.errors import ConfigError, HostError, Refused
from xlplug.model.hypervisor import DomainInfo, HeldRights, Hypervisor, Store
from xlplug.model.problem import Problem
from xlplug.plan import Plan, mapped_in_vain
from xlplug.vga import VGA_PORT_SET

__all__ = ["require_sole_vga", "tried_in_vain"]

#: From here on a port mapping needs the permission, which QEMU does not ask for.  Source: xen/arch/x86/domctl.c,
#: XEN_DOMCTL_ioport_mapping.
_MAPPING_NEEDS_PERMISSION = (4, 23)


def require_sole_vga(plan: Plan, xen: Hypervisor, store: Store) -> None:
    """Refuse where another domain has the VGA ranges that the plan asks for.

    A domain that is being destroyed keeps its rights to the end and can use them no longer.

    Raises:
        Refused: another domain has them.
        StoreError: a journal that was not written by this version.
    """
    if not any(is_vga(step) for step in plan.steps):
        return
    for name in store.list(nodes.vga()):
        info = _other(name, plan, xen)
        if info is not None and any(map(is_vga, Journal(store, info.domid, info.uuid).read().every)):
            advice = f"shut it down, or 'xlplug revoke {info.domid}'"
            raise Refused(Problem(f"domain {info.domid} holds the legacy VGA ports already", advice, code="XLP509"))
    _require_no_stock_display(plan, xen, store)


def tried_in_vain(plan: Plan, xen: Hypervisor, store: Store) -> bool:
    """Whether the device model has been given the display already and could not map the VGA set (`mapped_in_vain`).

    What the guest held by then follows from rules: what we had granted it, and up to Xen 4.22 what a QEMU in dom0 maps.
    """
    info = None if plan.target is None else xen.domain_info(plan.target)
    if info is None:
        return False
    granted = any(map(is_vga, Journal(store, info.domid, info.uuid).read().every))
    by_itself = plan.stubdom is None and xen.version < _MAPPING_NEEDS_PERMISSION
    return mapped_in_vain(plan, HeldRights(VGA_PORT_SET) if granted or by_itself else HeldRights())


def _require_no_stock_display(plan: Plan, xen: Hypervisor, store: Store) -> None:
    """QEMU in dom0 needs nobody to grant it the ranges up to Xen 4.22: it maps them for any display with gfx_passthru."""
    from xlplug.dom0 import domains, pci
    from xlplug.vga import can_own_legacy_vga

    for bdf, owner in pci.owners(store).items():
        info = _other(str(owner), plan, xen)
        if info is None or Journal(store, info.domid, info.uuid).read().state == REVOKED:
            continue
        try:
            device = pci.function(f"{pci.SYS_PCI}/{bdf}", {})
            if device is None or not can_own_legacy_vga(device):
                continue
            config = domains.domain_config(info)
        except (ConfigError, HostError):
            continue  # a function that cannot be read; a guest of another toolstack, which does not start QEMU so
        if config.gfx_passthru is not None and not config.stubdom:
            raise Refused(
                Problem(
                    f"domain {owner} has the display {bdf} with gfx_passthru, so its device model maps the legacy VGA ports",
                    "shut it down",
                    code="XLP509",
                )
            )


def _other(name: str, plan: Plan, xen: Hypervisor) -> DomainInfo | None:
    """A living domain that is neither dom0 nor the plan's."""
    if not (name.isascii() and name.isdecimal()) or int(name) in (0, plan.target, plan.stubdom):
        return None
    info = xen.domain_info(int(name))
    return None if info is None or info.dying else info
