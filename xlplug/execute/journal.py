# SPDX-License-Identifier: LGPL-2.1-only
"""What was granted, written down in xenstore under ``/libxl/<domid>/xlplug``.

libxl removes that node with the domain.  It is written before the first hypercall, so that a run which is killed can be
finished or undone by the next one.  ``state`` is "applying", "applied" or "undoing"; ``steps/NNN`` holds a step each:

    op grantee domid first count first_guest kept device before

numbers in hexadecimal, ``-`` for none, ``kept`` as inclusive ranges joined by commas, ``before`` as three numbers joined by
commas (see `Room`).  Reasons are not kept.  ``dm`` is the domain of the device model that is told what was done (see
preload_nodes.py), where one is.
"""

from typing import NamedTuple

from xlplug.dom0 import nodes
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import StoreError, XlplugError
from xlplug.model.hypervisor import Store
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import OPS, STUBDOM, TARGET, Room, Step

__all__ = ["APPLIED", "APPLYING", "UNDOING", "Entry", "Journal"]

APPLYING, APPLIED, UNDOING = "applying", "applied", "undoing"


class Entry(NamedTuple):
    """The journal's content; ``state`` is "" where there is none."""

    state: str = ""
    steps: tuple[Step, ...] = ()
    dm: Domid | None = None


class Journal:
    """The journal of one target."""

    def __init__(self, store: Store, domid: int) -> None:
        self._store = store
        self.path = nodes.journal(domid)

    def read(self) -> Entry:
        """What the journal holds.

        Raises:
            StoreError: a node that this version did not write.
        """
        state = self._store.read(f"{self.path}/state")
        if state is None:
            return Entry()
        steps = []
        for name in sorted(self._store.list(f"{self.path}/steps")):
            text = self._store.read(f"{self.path}/steps/{name}") or ""
            try:
                steps.append(_parse(text))
            except (ValueError, XlplugError) as error:
                raise StoreError(
                    f"xenstore: {self.path}/steps/{name} is not xlplug's: '{text}'",
                    hint=f"if nothing else of it is wanted: xenstore-rm {self.path}",
                ) from error
        dm = self._store.read(f"{self.path}/dm")
        return Entry(state, tuple(steps), Domid(int(dm)) if dm and dm.isdecimal() else None)

    def write(self, state: str, steps: tuple[Step, ...], dm: Domid | None = None) -> None:
        """Replace the content.  Steps come before the state, which makes them count."""
        self._store.remove(self.path)
        if dm is not None:
            self._store.write(f"{self.path}/dm", str(dm))
        for i, step in enumerate(steps):
            self._store.write(f"{self.path}/steps/{i:03d}", _format(step))
        self._store.write(f"{self.path}/state", state)

    def set_state(self, state: str) -> None:
        """Change the state alone."""
        self._store.write(f"{self.path}/state", state)

    def remove(self) -> None:
        """Forget everything."""
        self._store.remove(self.path)


def _format(step: Step) -> str:
    kept = step.kept.text or "-"
    guest = "-" if step.first_guest is None else f"{step.first_guest:x}"
    device = "-" if step.device is None else str(step.device)
    before = "-" if step.before is None else ",".join(f"{number:x}" for number in step.before)
    return f"{step.op} {step.grantee} {step.domid:x} {step.first:x} {step.nr:x} {guest} {kept} {device} {before}"


def _parse(text: str) -> Step:
    op, grantee, domid, first, count, guest, kept, device, room = text.split(" ")
    before = None
    if room != "-":
        pages, limit, raised = (int(number, 16) for number in room.split(","))
        before = Room(pages, limit, raised)
    if op not in OPS or grantee not in (TARGET, STUBDOM):
        raise ValueError(text)
    return Step(
        op, grantee, Domid(int(domid, 16)), int(first, 16), int(count, 16),
        device=None if device == "-" else Bdf.parse(device),
        first_guest=None if guest == "-" else int(guest, 16),
        kept=RangeSet.parse("" if kept == "-" else kept),
        before=before,
    )  # fmt: skip
