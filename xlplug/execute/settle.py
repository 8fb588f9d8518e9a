# SPDX-License-Identifier: LGPL-2.1-only
"""What granting and revoking begin with: a killed run's steps are undone, and what libxl has granted is left alone."""

from collections.abc import Callable, Collection

from xlplug.execute.apply import Log, quiet, take_back
from xlplug.execute.journal import APPLIED, REVOKED, UNDOING, Entry, is_vga
from xlplug.model.bdf import Bdf
from xlplug.model.errors import RollbackError
from xlplug.model.hypervisor import Hypervisor
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import IOMEM, IOPORT, POPULATE_PHYSMAP, Step
from xlplug.plan import Plan
from xlplug.vga import VGA_MEMORY

__all__ = ["by_libxl", "settle", "unfinished"]


def settle(entry: Entry, plan: Plan, xen: Hypervisor, log: Log) -> Entry:
    """Undo what a killed run left pending; the entry without it.

    Raises:
        RollbackError: something could not be taken back; the journal stays.
    """
    if not entry.pending:
        return entry
    say = quiet(log)
    undo = unfinished(entry, plan)
    left = take_back(undo, xen, lambda line: say(f"undo, after a run that was killed: {line}"), protect=entry.steps)
    if left:
        raise RollbackError("a run was killed", left, hint="destroy the domain and create it again")
    for step in entry.pending:
        if step not in undo:
            say(f"left to the device model, after a run that was killed: {step}")
    revoked = REVOKED if entry.state == UNDOING and any(map(is_vga, entry.pending)) else ""
    return Entry(APPLIED if entry.steps else revoked, entry.steps, (), entry.dm)


def unfinished(entry: Entry, plan: Plan) -> tuple[Step, ...]:
    """What is pending and must be undone.

    RAM is taken back where the plan has it too, because populating again would lose the pages.  A device model that was
    started meanwhile found nothing published, so it has populated the same gfns itself, and may have mapped them.
    """
    wanted = {step.key for step in plan.steps}
    return tuple(step for step in entry.pending if step.op != POPULATE_PHYSMAP or step.key in wanted)


def by_libxl(plan: Plan, plugged: Collection[Bdf] = ()) -> Callable[[Step], RangeSet]:
    """A function that returns the part of a step's range that libxl has also granted."""
    ranges: dict[tuple[str, str], list[Range]] = {}
    for grant in plan.by_libxl:
        # libxl__grant_vga_iomem_permission is called at creation only: libxl_create.c, domcreate_attach_devices.
        if not (grant.range == VGA_MEMORY and grant.device is not None and grant.device in plugged):
            ranges.setdefault((grant.kind, grant.grantee), []).append(grant.range)
    theirs = {key: RangeSet(found) for key, found in ranges.items()}

    def kept(step: Step) -> RangeSet:
        if step.kind not in (IOMEM, IOPORT):
            return step.kept
        return theirs.get((step.kind, step.grantee), RangeSet()).within(*step.range)

    return kept
