# SPDX-License-Identifier: LGPL-2.1-only
"""What was done for a guest, published for its device model: below ``/local/domain/<DM>/xlplug/<TARGET>`` in xenstore.

DM is the domain that the device model runs in: the stubdomain, or 0.  ``populated`` has the gfns that are populated, ``iomem``
the mfns that the guest was granted, both as inclusive hexadecimal ranges, sorted and joined by commas, also of one page:
``a0-bf,7a18d-7a18d``.  A node that would be empty is not there.
hooks/preload reads them.  dom0 writes them before the device model starts; nodes inherit the permissions of
``/local/domain/<DM>``, which a stubdomain may read and not write.
"""

from collections.abc import Iterable

from xlplug.dom0 import nodes
from xlplug.model.addr import Domid
from xlplug.model.hypervisor import Hypervisor, Nodes, Store
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOMEM_PERMISSION, POPULATE_PHYSMAP, TARGET, Step

__all__ = ["publish", "sweep", "update", "withdraw"]


def publish(store: Nodes, dm: Domid, target: int, steps: Iterable[Step]) -> None:
    """Publish all that ``steps`` have done, and nothing else.

    The RAM comes last: a device model that finds it goes on at once.
    """
    steps = tuple(steps)
    for name, op in (("iomem", IOMEM_PERMISSION), ("populated", POPULATE_PHYSMAP)):
        ranges = RangeSet(step.range for step in steps if step.op == op and step.grantee == TARGET)
        text = ranges.text
        path = f"{nodes.preload(dm)}/{target}/{name}"
        if text:
            store.write(path, text)
        else:
            store.remove(path)


def withdraw(store: Nodes, dm: Domid, target: int) -> None:
    """Remove what was published."""
    store.remove(f"{nodes.preload(dm)}/{target}")
    if not store.list(nodes.preload(dm)):
        store.remove(nodes.preload(dm))


def sweep(store: Store, xen: Hypervisor) -> None:
    """Forget guests that are gone.  libxl removes a stubdomain's nodes with it, dom0's it does not know of.

    Were they left, a later guest of the same number would not get its RAM.
    """
    for name in store.list(nodes.preload(Domid(0))):
        if name.isdecimal() and xen.domain_info(int(name)) is None:
            withdraw(store, Domid(0), int(name))
    for name in store.list(nodes.vga()):
        if name.isdecimal() and xen.domain_info(int(name)) is None:
            store.remove(nodes.vga(name))


def update(store: Nodes, dm: Domid | None, target: int, steps: Iterable[Step]) -> None:
    """Make what the device model in ``dm`` reads that ``steps`` were done; None for one that reads nothing."""
    steps = tuple(steps)
    if dm is None:
        return
    if steps and (dm == 0 or store.read(nodes.domain(dm)) is not None):  # else nobody would ever remove them
        publish(store, dm, target, steps)
    else:
        withdraw(store, dm, target)
