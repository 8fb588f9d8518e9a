# SPDX-License-Identifier: LGPL-2.1-only
"""What was granted, written down in xenstore under ``/libxl/<domid>/xlplug``.

libxl removes that node with the domain.  ``handle`` is the domain's handle, its UUID as Xen has it: a record of another
domain that had the number before is not read.  ``steps/NNN`` holds a step that is in force, ``pending/NNN`` one that may be,
because it is being done or undone: it is written before the first hypercall, so that the next run can undo what a killed
one left.  ``state`` is "applying", "applied" or "undoing" for the reader; or "revoked", where nothing is left but the
fact that the device model's mappings were taken away.  A step is

    op grantee domid first count first_guest kept device before

numbers in hexadecimal, ``-`` for none, ``kept`` as inclusive ranges joined by commas, ``before`` as three numbers joined by
commas (see `Room`).  Reasons are not kept.  ``dm`` is the domain of the device model that reads what was done (see
preload_nodes.py), where there is one.

The record changes in one transaction, together with the nodes for the device model: it is never there in part.
"""

from collections.abc import Callable
from typing import NamedTuple

from xlplug.dom0 import nodes
from xlplug.model.addr import DOMID_FIRST_RESERVED, Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import Refused, StoreError, XlplugError
from xlplug.model.hypervisor import Nodes, Store
from xlplug.model.problem import Problem
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOPORT, OPS, STUBDOM, TARGET, Room, Step
from xlplug.vga import VGA_PORT_SET

__all__ = ["APPLIED", "APPLYING", "REVOKED", "UNDOING", "Entry", "Journal", "is_vga"]

APPLYING, APPLIED, UNDOING, REVOKED = "applying", "applied", "undoing", "revoked"


class Entry(NamedTuple):
    """The journal's content: steps in force, and steps that may be; ``state`` is "" where there is none."""

    state: str = ""
    steps: tuple[Step, ...] = ()
    pending: tuple[Step, ...] = ()
    dm: Domid | None = None

    @property
    def every(self) -> tuple[Step, ...]:
        """All steps, those in force first."""
        return (*self.steps, *self.pending)


def is_vga(step: Step) -> bool:
    """Whether a step concerns the VGA ports, which go with the frame buffer."""
    return step.kind == IOPORT and bool(VGA_PORT_SET & RangeSet([step.range]))


def _nothing(view: Nodes) -> None:
    """No other nodes to change."""


class Journal:
    """The journal of one target, which has this handle; None, for a reader, where it is not known."""

    def __init__(self, store: Store, domid: int, handle: str | None) -> None:
        self._store = store
        self._domid = domid
        self._handle = handle
        self.path = nodes.journal(domid)

    def read(self) -> Entry:
        """What the journal holds.

        Raises:
            StoreError: a node that this version did not write.
        """
        if self._store.read(f"{self.path}/state") is None:
            return Entry()
        return self._store.atomically(self._read)

    def _read(self, view: Nodes) -> Entry:
        state = view.read(f"{self.path}/state")
        if state is None or self._handle not in (None, view.read(f"{self.path}/handle")):
            return Entry()
        dm = nodes.domid_in(view.read(f"{self.path}/dm"))
        if dm and not self._is_served_by(dm, view):
            dm = None
        return Entry(state, self._steps(view, "steps"), self._steps(view, "pending"), dm)

    def _is_served_by(self, domid: Domid, view: Nodes) -> bool:
        """Whether that domain says that it is this one's stubdomain."""
        return nodes.domid_in(view.read(nodes.target(domid))) == self._domid

    def _steps(self, view: Nodes, kind: str) -> tuple[Step, ...]:
        steps = []
        for name in sorted(view.list(f"{self.path}/{kind}"), key=lambda name: (len(name), name)):
            text = view.read(f"{self.path}/{kind}/{name}")
            if text is None:  # xenstored reads the tree of now; it will not let this transaction end
                continue
            try:
                steps.append(_parse(text, self._domid))
            except (ValueError, XlplugError) as error:
                raise StoreError(
                    f"xenstore: {self.path}/{kind}/{name} was not written by xlplug: {text[:200]!r}",
                    hint=f"if nothing else of it is wanted: xenstore-rm {self.path}",
                    code="XLP505",
                ) from error
        stubdoms = {step.domid for step in steps if step.grantee == STUBDOM and step.domid is not None}
        if len(stubdoms) > 1:
            raise StoreError(
                f"xenstore: {self.path}/{kind} names two stubdomains",
                hint=f"if nothing of it is wanted: xenstore-rm {self.path}",
                code="XLP505",
            )
        gone = {domid for domid in stubdoms if not self._is_served_by(domid, view)}
        return tuple(step for step in steps if step.domid not in gone)

    def write(self, entry: Entry, also: Callable[[Nodes], None] = _nothing) -> None:
        """Replace the content, and change what ``also`` changes, at once.

        Raises:
            Refused: the toolstack has removed the domain's nodes; what we wrote now would never be removed.
            StoreError: xenstored failed; it may have written, or not.
        """

        def change(view: Nodes) -> None:
            # libxl removes /local/domain/N before /libxl/N, and the domain itself only then: libxl_domain.c,
            # devices_destroy_cb.  xenstored lets this transaction end only while the node is still as it was read.
            if view.read(nodes.domain(self._domid)) is None:
                raise Refused(Problem(f"domain {self._domid} is being destroyed", "see 'xl list'", code="XLP115"))
            view.remove(self.path)
            view.write(f"{self.path}/handle", self._handle or "")
            view.write(f"{self.path}/state", entry.state)
            if entry.dm is not None:
                view.write(f"{self.path}/dm", str(entry.dm))
            for kind, steps in (("steps", entry.steps), ("pending", entry.pending)):
                for i, step in enumerate(steps):
                    view.write(f"{self.path}/{kind}/{i:03d}", _format(step))
            self._list(view, vga=any(map(is_vga, entry.every)))
            also(view)

        self._store.atomically(change)

    def _list(self, view: Nodes, *, vga: bool) -> None:
        """Put the domain on the list of those that have the VGA ranges, or take it off."""
        if vga:
            view.write(nodes.vga(self._domid), "")
            return
        view.remove(nodes.vga(self._domid))
        if not view.list(nodes.vga()):
            view.remove(nodes.vga())

    def replace(self, found: Entry, entry: Entry, also: Callable[[Nodes], None] = _nothing) -> None:
        """As `write`, for what is about to be done; when it fails, what was ``found`` is recorded again if that is possible.

        Raises:
            Refused, StoreError: as `write` does.
        """
        try:
            self.write(entry, also)
        except (Refused, StoreError):
            try:  # it may have been written all the same
                if found.state:
                    self.write(found)
                else:
                    self.remove()
            except (Refused, StoreError):
                pass  # what counts is the failure that led here
            raise

    def remove(self, also: Callable[[Nodes], None] = _nothing) -> None:
        """Forget everything, and change what ``also`` changes, at once."""

        def change(view: Nodes) -> None:
            view.remove(self.path)
            self._list(view, vga=False)
            also(view)

        self._store.atomically(change)


def _format(step: Step) -> str:
    kept = step.kept.text or "-"
    guest = "-" if step.first_guest is None else f"{step.first_guest:x}"
    device = "-" if step.device is None else str(step.device)
    before = "-" if step.before is None else ",".join(f"{number:x}" for number in step.before)
    return f"{step.op} {step.grantee} {step.domid:x} {step.first:x} {step.nr:x} {guest} {kept} {device} {before}"


def _parse(text: str, target: int) -> Step:
    op, grantee, domid, first, count, guest, kept, device, room = text.split(" ")
    before = None
    if room != "-":
        pages, limit, raised = (_number(number) for number in room.split(","))
        before = Room(pages, limit, raised)
    step = Step(
        op, grantee, Domid(_number(domid)), _number(first), _number(count),
        device=None if device == "-" else Bdf.parse(device),
        first_guest=None if guest == "-" else _number(guest),
        kept=RangeSet.parse("" if kept == "-" else kept),
        before=before,
    )  # fmt: skip
    # Only the domain itself, and one other beside dom0, can be meant: nothing else may be revoked from.
    mine = step.domid == target if grantee == TARGET else step.domid not in (0, target)
    if op not in OPS or grantee not in (TARGET, STUBDOM) or not mine or not step.nr:
        raise ValueError(text)
    if step.domid is None or step.domid >= DOMID_FIRST_RESERVED:
        raise ValueError(text)
    return step


def _number(text: str) -> int:
    """What ``x`` prints, of at most 64 bits: ``int`` alone takes signs, underscores and any length."""
    if not text or len(text) > 16 or set(text) - set("0123456789abcdef"):
        raise ValueError(text)
    return int(text, 16)
