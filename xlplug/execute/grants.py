# SPDX-License-Identifier: LGPL-2.1-only
"""Granting, revoking and comparing, with the journal kept: execution's outer layer.

Everything here is idempotent, and whatever a killed run left is finished or undone by the next.
"""

from collections.abc import Iterable
from typing import NamedTuple

from xlplug.execute.apply import Log, apply, take_back
from xlplug.execute.journal import APPLIED, APPLYING, UNDOING, Entry, Journal
from xlplug.execute.preload_nodes import publish, sweep, withdraw
from xlplug.model.addr import Domid
from xlplug.model.errors import ApplyError, Refused, RollbackError, StoreError
from xlplug.model.hypervisor import HeldRights, Hypervisor, Store
from xlplug.model.problem import Problem
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOMEM, IOPORT, PERMISSIONS, POPULATE_PHYSMAP, Room, Step
from xlplug.plan import Plan
from xlplug.vga import VGA_PORT_SET

__all__ = ["Outcome", "grant", "require_sole_vga", "revoke", "revoke_detached"]


class Outcome(NamedTuple):
    """Steps done now, and steps that an earlier run had done."""

    done: tuple[Step, ...] = ()
    already: tuple[Step, ...] = ()


def grant(plan: Plan, xen: Hypervisor, store: Store, log: Log) -> Outcome:
    """Carry out a plan for a living domain.

    What the domain holds beforehand is read from Xen and kept by the undo, so that `revoke` restores what was there.  RAM is
    populated once: what a killed run may have populated is taken back first, and only while the plan has it too, which it has
    while the device model has not started.  Then the device model is told of it all.

    Raises:
        Refused: the plan has refusals, or the domain cannot be granted anything; nothing touched.
        ApplyError, RollbackError: see `apply`.
    """
    target = plan.target
    if plan.refusals:
        raise Refused(*plan.refusals)
    if target is None:
        raise ValueError("a plan without a target")
    for name, domid in (("domain", target), ("stubdomain", plan.stubdom)):
        _require_alive(name, domid, xen)
    journal = Journal(store, target)
    before = journal.read()
    sweep(store, xen)
    dm = before.dm
    if dm is None and plan.preload:
        dm = plan.stubdom or Domid(0)
        withdraw(store, dm, target)  # an earlier guest's of that number
    if not plan.steps and not before.steps:
        return Outcome()
    finished = before.state == APPLIED
    if not finished:
        before = before._replace(steps=_settle_ram(before, plan, xen, log))
    held = xen.held()
    require_sole_vga(plan, xen, held)
    known = {step.key for step in before.steps}
    new = tuple(_keep_held(step, held, before) for step in plan.steps if step.key not in known)
    again = tuple(step for step in before.steps if not finished or _lost(step, held))
    already = tuple(step for step in before.steps if step not in again)
    todo = _with_room((*again, *new), xen)
    if not todo:
        return Outcome(already=already)
    every = (*already, *todo)
    journal.write(APPLYING, every, dm)
    try:
        apply(todo, xen, log, lambda: _tell(store, dm, target, every))
    except RollbackError:
        raise  # the journal stays, for `revoke`
    except ApplyError:
        try:  # noqa: SIM105 - contextlib would have to be loaded
            _tell(store, dm, target, before.steps if finished else ())
        except StoreError:
            pass  # what counts is the failure that led here
        if finished:
            journal.write(APPLIED, before.steps, dm)
        else:
            journal.remove()
        raise
    journal.set_state(APPLIED)
    return Outcome(todo, already)


def _tell(store: Store, dm: Domid | None, target: Domid, steps: tuple[Step, ...]) -> None:
    """Make what the device model in ``dm`` is told that ``steps`` were done; None for one that listens to nothing."""
    if dm is None:
        return
    if steps:
        publish(store, dm, target, steps)
    else:
        withdraw(store, dm, target)


def _settle_ram(before: Entry, plan: Plan, xen: Hypervisor, log: Log) -> tuple[Step, ...]:
    """The steps of a killed run without those whose RAM is no longer ours to touch.

    What it had populated of the others is taken back, because populating again would lose the pages.  A device model that was
    started meanwhile has been told nothing, so it has populated the same gfns itself, and may have mapped them.

    Raises:
        RollbackError: something could not be taken back.
    """
    wanted = {step.key for step in plan.steps}
    populated = [step for step in before.steps if step.op == POPULATE_PHYSMAP]
    left = take_back((step for step in populated if step.key in wanted), xen, lambda line: log(f"undo: {line}"))
    if left:
        raise RollbackError("a run was killed", left, hint="destroy the domain and create it again")
    for step in populated:
        if step.key not in wanted:
            log(f"left to the device model, after a run that was killed: {step}")
    return tuple(step for step in before.steps if step.op != POPULATE_PHYSMAP)


def _with_room(steps: Iterable[Step], xen: Hypervisor) -> tuple[Step, ...]:
    """The steps with what they make of max_pages: no more than the pages to come need, beyond what libxl left free."""
    found: list[Step] = []
    room: Room | None = None
    for step in steps:
        if step.op != POPULATE_PHYSMAP:
            found.append(step)
            continue
        if room is None:
            info = xen.domain_info(step.domid or 0)
            pages, limit = (info.nr_pages, info.max_pages) if info else (0, 0)
        else:
            pages, limit = found[-1].nr + room.nr_pages, room.raised
        room = Room(pages, limit, max(limit, pages + step.nr))
        found.append(step._replace(before=room))
    return tuple(found)


def _lost(step: Step, held: dict[int, HeldRights]) -> bool:
    """Whether a permission that we gave is gone: revoked by someone else.  Nothing else can be read back from Xen."""
    rights = held.get(step.domid or 0, HeldRights())
    has = rights.memory if step.kind == IOMEM else rights.ports
    return step.op in PERMISSIONS and not has.covers(step.first, step.first + step.nr)


def require_sole_vga(plan: Plan, xen: Hypervisor, held: dict[int, HeldRights]) -> None:
    """Legacy VGA cycles reach one card only: refuse where another domain holds the ports already.

    A domain that is being destroyed keeps its rights to the end and can use them no more.

    Raises:
        Refused: another domain holds them.
    """
    if not any(step.kind == IOPORT and VGA_PORT_SET & RangeSet([step.range]) for step in plan.steps):
        return
    for domid, rights in held.items():
        if domid in (0, plan.target, plan.stubdom) or not VGA_PORT_SET & rights.ports:
            continue
        info = xen.domain_info(domid)
        if info is not None and not info.dying:
            raise Refused(
                Problem(
                    f"domain {domid} holds the legacy VGA ports already", f"shut it down, or 'xlplug revoke {domid}'"
                )
            )


def _require_alive(name: str, domid: Domid | None, xen: Hypervisor) -> None:
    if domid is None:
        return
    info = xen.domain_info(domid)
    if info is None:
        raise Refused(Problem(f"{name} {domid} does not exist", "see 'xl list'"))
    if info.dying:
        raise Refused(Problem(f"{name} {domid} is being destroyed", "see 'xl list'"))


def _keep_held(step: Step, held: dict[int, HeldRights], before: Entry) -> Step:
    """The step with what its domain holds already added to ``kept``, our own earlier grants excepted."""
    if step.kind not in (IOMEM, IOPORT):
        return step
    rights = held.get(step.domid or 0, HeldRights())
    ours = RangeSet(s.range for s in before.steps if s.kind == step.kind and s.domid == step.domid)
    theirs = (rights.memory if step.kind == IOMEM else rights.ports) - ours
    return step._replace(kept=step.kept | (theirs & RangeSet([step.range])))


def revoke(domid: int, xen: Hypervisor, store: Store, log: Log) -> tuple[Step, ...]:
    """Take back all that was granted to a domain and its stubdomain; the steps taken back.

    RAM is taken back only while its device model has not started (see `_ram_in_use`).  Later it goes with the domain.

    Raises:
        RollbackError: some could not be; the journal stays, so that it can be tried again.
    """
    journal = Journal(store, domid)
    entry = journal.read()
    if not entry.state:
        return ()
    in_use = tuple(step for step in entry.steps if step.op == POPULATE_PHYSMAP and _ram_in_use(entry, xen))
    steps = tuple(step for step in entry.steps if step not in in_use)
    for step in in_use:
        log(f"not taken back, its device model has it in use: {step}")
    journal.set_state(UNDOING)
    # First, so that a device model which starts now populates by itself.
    if entry.dm is not None:
        _tell(store, entry.dm, Domid(domid), in_use)
    left = take_back(steps, xen, log)
    if left:
        raise RollbackError(f"domain {domid} was not revoked whole", left, hint="correct the cause and run it again")
    if in_use:
        journal.write(APPLIED, in_use, entry.dm)
    else:
        journal.remove()
    return steps


def _ram_in_use(entry: Entry, xen: Hypervisor) -> bool:
    """Whether the device model may have mapped what we populated: from then on the guest would lose its screen, and QEMU end.

    A stubdomain that never ran has no device model yet.  One in dom0 starts as soon as our wrapper has done everything, and
    not before: whatever the journal calls unfinished was never handed on to it.
    """
    if entry.dm == 0:
        return entry.state != APPLYING
    info = None if entry.dm is None else xen.domain_info(entry.dm)
    return info is None or info.cpu_time > 0


def revoke_detached(plan: Plan, xen: Hypervisor, store: Store, log: Log) -> tuple[Step, ...]:
    """Take back what was granted for devices that the domain no longer has; the steps taken back.

    Raises:
        RollbackError: some could not be; the journal stays, so that it can be tried again.
    """
    if plan.target is None:
        raise ValueError("a plan without a target")
    journal = Journal(store, plan.target)
    entry = journal.read()
    present = {assigned.device.bdf for assigned in plan.devices}
    stale = tuple(step for step in entry.steps if step.device is not None and step.device not in present)
    if not stale:
        return ()
    left = take_back(stale, xen, log)
    if left:
        raise RollbackError(f"domain {plan.target} keeps what it had for a detached device", left, hint="run it again")
    rest = tuple(step for step in entry.steps if step not in stale)
    if entry.dm is not None:
        _tell(store, entry.dm, plan.target, rest)
    if rest:
        journal.write(entry.state, rest, entry.dm)
    else:
        journal.remove()
    return stale
