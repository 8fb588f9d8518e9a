# SPDX-License-Identifier: LGPL-2.1-only
"""Granting and revoking, with the journal kept: execution's outer layer.

Everything here is idempotent.  A run that was killed is undone by the next one before it does anything else; a signal is let
in between two steps.  Nothing is read back from Xen: what libxl grants follows from the configuration (plan.by_libxl), what
we granted is in the journal.
"""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from xlplug.dom0 import nodes
from xlplug.execute.apply import Log, apply
from xlplug.execute.journal import APPLIED, APPLYING, REVOKED, Entry, Journal
from xlplug.execute.preload_nodes import sweep, update
from xlplug.execute.revokes import revoke, revoke_detached
from xlplug.execute.settle import by_libxl, settle
from xlplug.execute.signals import Waiting
from xlplug.execute.sole_vga import require_sole_vga, tried_in_vain
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ApplyError, Refused, RollbackError, StoreError, XenError
from xlplug.model.hypervisor import DomainInfo, Hypervisor, Store
from xlplug.model.problem import Problem
from xlplug.model.steps import IOMEM_PERMISSION, PERMISSIONS, POPULATE_PHYSMAP, Room, Step
from xlplug.plan import Plan

__all__ = ["Outcome", "grant", "require_sole_vga", "revoke", "revoke_detached", "tried_in_vain"]


class Outcome(NamedTuple):
    """Steps done now, and steps that an earlier run had done; of the latter the permissions have been given again."""

    done: tuple[Step, ...] = ()
    already: tuple[Step, ...] = ()


def grant(plan: Plan, xen: Hypervisor, store: Store, log: Log, *, plugged: Collection[Bdf] = ()) -> Outcome:
    """Carry out a plan for a living domain.

    RAM is populated once: what a killed run may have populated is taken back first, and only while the plan has it too, which
    it has while the device model has not started.  ``plugged`` are devices that were plugged in after creation, for which
    libxl does not grant the VGA frame buffer.

    Raises:
        Refused: the plan has refusals, or the domain cannot be granted anything; nothing touched.
        ApplyError, RollbackError: see `apply`.
        StoreError: before anything was touched.
    """
    if plan.refusals:
        raise Refused(*plan.refusals)
    if plan.target is None:
        raise ValueError("a plan without a target")
    target = plan.target
    info = _require_alive("domain", target, xen)
    if plan.stubdom is not None:
        _require_stubdom(plan.stubdom, target, xen, store)
    with Waiting() as waiting:
        journal = Journal(store, target, info.uuid)
        entry = journal.read()
        if not plan.steps and not entry.every:
            return Outcome()
        require_sole_vga(plan, xen, store)
        sweep(store, xen)
        waiting.let_in()
        before = settle(entry, plan, xen, log)
        new = _new_steps(plan, before, xen, plugged)
        if before.dm is None and plan.preload:
            before = before._replace(dm=plan.stubdom or Domid(0))
        if not new:
            if entry.pending:
                _record(journal, before, target, "a run that was killed is undone")
            _give_again(before.steps, xen)
            return Outcome(already=before.steps)
        _write(journal, Entry(APPLYING, before.steps, new, before.dm), entry, before, target)
        _add(new, before, journal, target, (xen, log, waiting.let_in))
    return Outcome(new, before.steps)


def _add(
    new: tuple[Step, ...], before: Entry, journal: Journal, target: int, by: tuple[Hypervisor, Log, Callable[[], None]]
) -> None:
    """Carry out the new steps, and record them; when that fails, the record of ``before`` is written again."""
    xen, log, let_in = by
    done = Entry(APPLIED, (*before.steps, *new), (), before.dm)
    try:
        _give_again(before.steps, xen)
        apply(new, xen, log, lambda: _commit(journal, done, target), protect=before.steps, let_in=let_in)
    except RollbackError:
        raise  # the journal stays, for `revoke`
    except ApplyError as error:
        _record(journal, before, target, error.message)
        raise


def _commit(journal: Journal, entry: Entry, target: int) -> None:
    """Record what is in force, and make the device model read it, in one transaction."""
    journal.write(entry, lambda nodes: update(nodes, entry.dm, target, entry.steps))


def _write(journal: Journal, entry: Entry, found: Entry, before: Entry, target: int) -> None:
    """Record what is about to be done.  ``found`` is the record of before, ``before`` the same without what was pending.

    Raises:
        ApplyError: instead of Refused and StoreError, where a killed run's steps have been undone already.
    """
    try:
        journal.replace(before, entry, lambda nodes: update(nodes, entry.dm, target, entry.steps))
    except (Refused, StoreError) as error:
        if found.pending:
            raise ApplyError(f"a run that was killed is undone, and then: {error.message}", hint=error.hint) from error
        raise


def _record(journal: Journal, before: Entry, target: int, happened: str) -> None:
    """Record what was in force before the run, which has been undone.

    Raises:
        RollbackError: that cannot be recorded.
    """
    try:
        if before.steps or before.state == REVOKED:
            _commit(journal, before, target)
        else:
            journal.remove(lambda nodes: update(nodes, before.dm, target, ()))
    except Refused:
        pass  # the domain is going, and the record with it
    except StoreError as error:
        raise RollbackError(
            happened, (f"the record of it ({error.message})",), hint=f"run: xlplug revoke {target}", code="XLP508"
        ) from error


def _give_again(steps: Iterable[Step], xen: Hypervisor) -> None:
    """Give permissions that are in force once more: someone else may have revoked them, and Xen cannot be asked.

    Raises:
        ApplyError: Xen refused one; all else is as it was.
    """
    for step in steps:
        if step.op not in PERMISSIONS or step.domid is None:
            continue
        give = xen.iomem_permission if step.op == IOMEM_PERMISSION else xen.ioport_permission
        try:
            give(step.domid, step.first, step.nr, allow=True)
        except XenError as error:
            raise ApplyError(
                f"'{step}', which was done before, failed: {error.message}; nothing was added", hint=error.hint
            ) from error


def _new_steps(plan: Plan, before: Entry, xen: Hypervisor, plugged: Collection[Bdf]) -> tuple[Step, ...]:
    """The plan's steps that are not in force, with what their undo must leave and find."""
    known = {step.key for step in before.steps}
    kept = by_libxl(plan, plugged)
    return _with_room((step._replace(kept=kept(step)) for step in plan.steps if step.key not in known), xen)


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


def _require_alive(name: str, domid: Domid, xen: Hypervisor) -> DomainInfo:
    info = xen.domain_info(domid)
    if info is None:
        raise Refused(Problem(f"{name} {domid} does not exist", "see 'xl list'", code="XLP112"))
    if info.dying:
        raise Refused(Problem(f"{name} {domid} is being destroyed", "see 'xl list'", code="XLP115"))
    return info


def _require_stubdom(stubdom: Domid, target: Domid, xen: Hypervisor, store: Store) -> None:
    """A stubdomain must say itself whom it serves: the guest's own node may name one that is gone, and its number another's."""
    _require_alive("stubdomain", stubdom, xen)
    if store.read(nodes.target(stubdom)) != str(target):
        raise Refused(
            Problem(
                f"domain {stubdom} is not the stubdomain of domain {target}", "run it again in a second", code="XLP504"
            )
        )
