# SPDX-License-Identifier: LGPL-2.1-only
"""Taking back what was granted, and before it what the device model has mapped by right of it."""

from collections.abc import Iterable

from xlplug.execute.apply import Log, quiet, take_back
from xlplug.execute.journal import APPLIED, REVOKED, UNDOING, Entry, Journal, is_vga
from xlplug.execute.preload_nodes import update
from xlplug.execute.settle import by_libxl, unfinished
from xlplug.execute.signals import Waiting
from xlplug.model.errors import Refused, RollbackError, StoreError
from xlplug.model.hypervisor import Hypervisor, Store
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import (
    IOMEM_PERMISSION,
    IOPORT_MAPPING,
    MEMORY_MAPPING,
    PERMISSIONS,
    POPULATE_PHYSMAP,
    TARGET,
    Step,
)
from xlplug.plan import Plan
from xlplug.vga import VGA_MEMORY, VGA_PORTS

__all__ = ["revoke", "revoke_detached"]


def revoke(domid: int, xen: Hypervisor, store: Store, log: Log) -> tuple[Step, ...]:
    """Take back all that was granted to a domain and its stubdomain; the steps taken back.

    The device model's own mappings of the VGA ranges go first: with a mapping, access outlives the permission.  RAM is taken
    back only while its device model has not started (see `_ram_in_use`).  Later it goes with the domain.

    Raises:
        RollbackError: some could not be; the journal stays, so that it can be tried again.
        StoreError: before anything was touched.
    """
    info = xen.domain_info(domid)
    if info is None:
        return ()
    with Waiting():
        journal = Journal(store, domid, info.uuid)
        entry = journal.read()
        in_use = tuple(step for step in entry.every if step.op == POPULATE_PHYSMAP and _ram_in_use(step, entry, xen))
        steps = tuple(step for step in entry.every if step not in in_use)
        say = quiet(log)
        for step in in_use:
            say(f"not taken back, its device model has it in use: {step}")
        if not steps:
            return ()
        for step in steps if info.cpu_time else ():
            if step.op == IOMEM_PERMISSION and step.grantee == TARGET and step.device and step.range != VGA_MEMORY:
                say(
                    f"mfn {step.first:x}-{step.range.last:x} stays mapped where the guest's firmware put it: until "
                    f"'xl pci-detach {domid} {step.device}', or until the domain ends"
                )
        # First, so that a device model which starts now populates by itself.
        undoing = Entry(UNDOING, in_use, (*steps, *_vga_mappings(steps)), entry.dm)
        journal.replace(entry, undoing, lambda nodes: update(nodes, entry.dm, domid, in_use))
        _take_back(steps, domid, xen, say, f"domain {domid} was not revoked whole")
        _record_rest(journal, Entry(APPLIED, in_use, (), entry.dm), domid, was_vga=any(map(is_vga, steps)))
    return steps


def _take_back(
    steps: tuple[Step, ...], domid: int, xen: Hypervisor, log: Log, failed: str, protect: tuple[Step, ...] = ()
) -> None:
    """Undo the steps, and before them what the device model has mapped by their right.

    Raises:
        RollbackError: some could not be.
    """
    undone: list[str] = []

    def say(line: str) -> None:
        undone.append(line)
        log(line)

    mapped = _vga_mappings(steps)
    left = take_back((*steps, *mapped), xen, say, protect=protect)
    if any(str(step._replace(add=False)) in undone for step in mapped if step.op == MEMORY_MAPPING):
        log(f"domain {domid}'s device model had the VGA ranges mapped: the display is dead until 'xl reboot {domid}'")
    if left:
        raise RollbackError(failed, left, hint="correct the cause and run it again")


def _vga_mappings(steps: Iterable[Step]) -> tuple[Step, ...]:
    """What a device model maps for a display, exactly as it does, where ``steps`` are the guest's permission to it.

    Where the OpRegion is mapped, the guest's firmware decides: that mapping ends with the device or with the domain.
    """
    steps = tuple(steps)
    known = {step.key for step in steps}
    found = []
    for step in steps:
        if step.grantee != TARGET or step.op not in PERMISSIONS:
            continue
        ranges, op = ((VGA_MEMORY,), MEMORY_MAPPING) if step.op == IOMEM_PERMISSION else (VGA_PORTS, IOPORT_MAPPING)
        found += [
            step._replace(op=op, first=r.start, nr=r.nr, first_guest=r.start, kept=step.kept & RangeSet([r]))
            for r in ranges
            if RangeSet([step.range]).covers(*r)
        ]
    return tuple(step for step in found if step.key not in known)


def _record_rest(journal: Journal, rest: Entry, domid: int, *, was_vga: bool) -> None:
    """Record what is left in force; where VGA mappings were taken away, that they were.

    Raises:
        RollbackError: it cannot be recorded.
    """
    try:
        if rest.steps or was_vga:
            entry = rest if rest.steps else Entry(REVOKED)
            journal.write(entry, lambda nodes: update(nodes, rest.dm, domid, rest.steps))
        else:
            journal.remove(lambda nodes: update(nodes, rest.dm, domid, ()))
    except Refused:
        pass  # the domain is going, and the record with it
    except StoreError as error:
        raise RollbackError(
            f"domain {domid} is revoked, but not the record of it", (error.message,), hint="run it again", code="XLP508"
        ) from error


def _ram_in_use(step: Step, entry: Entry, xen: Hypervisor) -> bool:
    """Whether the device model may have mapped what we populated: from then on the guest would lose its screen, and QEMU end.

    A stubdomain that never ran has no device model yet.  One in dom0 starts as soon as our wrapper has done everything, and
    not before: what the journal has pending was never handed on to it.
    """
    if entry.dm == 0:
        return step in entry.steps
    info = None if entry.dm is None else xen.domain_info(entry.dm)
    return info is None or info.cpu_time > 0


def revoke_detached(plan: Plan, xen: Hypervisor, store: Store, log: Log) -> tuple[Step, ...]:
    """Take back what was granted for devices that the domain no longer has; the steps taken back.

    What libxl granted for a device that is gone goes as well.  What it grants for the devices that are there now is left, and so
    is what the plan grants to one of them in the place of one that is gone.

    Raises:
        RollbackError: some could not be; the journal stays, so that it can be tried again.
    """
    if plan.target is None:
        raise ValueError("a plan without a target")
    info = xen.domain_info(plan.target)
    if info is None:
        return ()
    with Waiting():
        journal = Journal(store, plan.target, info.uuid)
        entry = journal.read()
        present = {assigned.device.bdf for assigned in plan.devices}
        heirs = {} if plan.refusals else {step.key: step.device for step in plan.steps}
        steps = [
            step if step.device in (None, *present) else step._replace(device=heirs.get(step.key, step.device))
            for step in entry.steps
        ]
        rest = tuple(step for step in steps if step.device in (None, *present))
        kept = by_libxl(plan)
        gone = (step for step in steps if step.device not in (None, *present))
        stale = (*unfinished(entry, plan), *(step._replace(kept=kept(step)) for step in gone))
        if not stale:
            return ()
        journal.replace(entry, Entry(UNDOING, rest, (*stale, *_vga_mappings(stale)), entry.dm))
        _take_back(
            stale, plan.target, xen, log, f"domain {plan.target} keeps what it had for a detached device", protect=rest
        )
        _record_rest(journal, Entry(APPLIED, rest, (), entry.dm), plan.target, was_vga=any(map(is_vga, stale)))
    return stale
