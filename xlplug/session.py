# SPDX-License-Identifier: LGPL-2.1-only
"""Granting, revoking and comparing, with the journal kept: execution's outer layer.

Everything here is idempotent, and whatever a killed run left is finished or undone by the next.
"""

from typing import NamedTuple

from xlplug.addr import Domid
from xlplug.apply import Log, apply, take_back
from xlplug.errors import ApplyError, Refused, RollbackError
from xlplug.grant import IOMEM, IOPORT, MAPPINGS, Step
from xlplug.hypervisor import HeldRights, Hypervisor, Store
from xlplug.journal import APPLIED, APPLYING, UNDOING, Entry, Journal
from xlplug.plan import Plan
from xlplug.rangeset import RangeSet
from xlplug.vga import VGA_PORT_SET

__all__ = ["Comparison", "Outcome", "compare", "grant", "require_sole_vga", "revoke", "revoke_detached"]


class Outcome(NamedTuple):
    """Steps done now, and steps that an earlier run had done."""

    done: tuple[Step, ...] = ()
    already: tuple[Step, ...] = ()


def grant(plan: Plan, xen: Hypervisor, store: Store, log: Log) -> Outcome:
    """Carry out a plan for a living domain.

    What the domain holds beforehand is read from Xen and kept by the undo, so that `revoke` restores what was there.

    Raises:
        Refused: the plan has refusals, or the domain cannot be granted anything; nothing touched.
        ApplyError, RollbackError: see `apply`.
    """
    target = plan.target
    if plan.refusals:
        raise Refused(plan.refusals)
    if target is None:
        raise ValueError("a plan without a target")
    for name, domid in (("domain", target), ("stubdomain", plan.stubdom)):
        _require_alive(name, domid, xen)
    journal = Journal(store, target)
    before = journal.read()
    if not plan.steps and not before.steps:
        return Outcome()
    held = xen.held()
    require_sole_vga(plan, xen, held)
    known = {step.key for step in before.steps}
    new = tuple(_keep_held(step, held, before) for step in plan.steps if step.key not in known)
    finished = before.state == APPLIED
    again = tuple(step for step in before.steps if not finished or _lost(step, held))
    already = tuple(step for step in before.steps if step not in again)
    todo = (*again, *new)
    if not todo:
        return Outcome(already=already)
    journal.write(APPLYING, (*before.steps, *new))
    try:
        apply(todo, xen, log)
    except RollbackError:
        raise  # the journal stays, for `revoke`
    except ApplyError:
        if finished:
            journal.write(APPLIED, before.steps)
        else:
            journal.remove()
        raise
    journal.set_state(APPLIED)
    return Outcome(todo, already)


def _lost(step: Step, held: dict[int, HeldRights]) -> bool:
    """Whether a permission that we gave is gone: revoked by someone else.  Mappings cannot be read back from Xen."""
    rights = held.get(step.domid or 0, HeldRights())
    has = rights.memory if step.kind == IOMEM else rights.ports
    return step.op not in MAPPINGS and not has.covers(step.first, step.first + step.nr)


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
                (f"domain {domid} holds the legacy VGA ports already; shut it down, or 'xlplug revoke {domid}'",)
            )


def _require_alive(name: str, domid: Domid | None, xen: Hypervisor) -> None:
    if domid is None:
        return
    info = xen.domain_info(domid)
    if info is None:
        raise Refused((f"{name} {domid} does not exist; see 'xl list'",))
    if info.dying:
        raise Refused((f"{name} {domid} is being destroyed; see 'xl list'",))


def _keep_held(step: Step, held: dict[int, HeldRights], before: Entry) -> Step:
    """The step with what its domain holds already added to ``kept``, our own earlier grants excepted."""
    rights = held.get(step.domid or 0, HeldRights())
    ours = RangeSet(s.range for s in before.steps if s.kind == step.kind and s.domid == step.domid)
    theirs = (rights.memory if step.kind == IOMEM else rights.ports) - ours
    return step._replace(kept=step.kept | (theirs & RangeSet([step.range])))


def revoke(domid: int, xen: Hypervisor, store: Store, log: Log) -> tuple[Step, ...]:
    """Take back all that was granted to a domain and its stubdomain; the steps taken back.

    Raises:
        RollbackError: some could not be; the journal stays, so that it can be tried again.
    """
    journal = Journal(store, domid)
    entry = journal.read()
    if not entry.state:
        return ()
    journal.set_state(UNDOING)
    left = take_back(entry.steps, xen, log)
    if left:
        raise RollbackError(f"domain {domid} was not revoked whole", left, hint="mend the cause and run it again")
    journal.remove()
    return entry.steps


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
    if rest:
        journal.write(entry.state, rest)
    else:
        journal.remove()
    return stale


class Comparison(NamedTuple):
    """A domain's rights: granted by us, reported by Xen; ``state`` is the journal's."""

    domid: int
    grantee: str
    kind: str
    ours: RangeSet
    held: RangeSet
    state: str

    @property
    def missing(self) -> RangeSet:
        """Granted by us and not held: revoked by someone else, or a run was killed."""
        return self.ours - self.held

    @property
    def others(self) -> RangeSet:
        """Held and not granted by us: libxl's grants, or the device model's."""
        return self.held - self.ours


def compare(target: int, xen: Hypervisor, store: Store) -> tuple[Comparison, ...]:
    """Ours against Xen's, for a target and whatever stubdomain its journal names."""
    entry = Journal(store, target).read()
    held = xen.held()
    grantees = {target: "target"} | {int(s.domid): s.grantee for s in entry.steps if s.domid is not None}
    found = []
    for domid, grantee in grantees.items():
        rights = held.get(domid, HeldRights())
        for kind, has in ((IOMEM, rights.memory), (IOPORT, rights.ports)):
            ours = RangeSet(
                s.range for s in entry.steps if s.domid == domid and s.kind == kind and s.op not in MAPPINGS
            )
            found.append(Comparison(domid, grantee, kind, ours, has, entry.state))
    return tuple(found)
