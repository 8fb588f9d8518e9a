# SPDX-License-Identifier: LGPL-2.1-only
"""What can be granted, as values: rights that policy asks for, and the steps that give them.

Nothing here acts.  A `Step` prints itself (the same line in dry run, log and error), names its own undo, and knows which
part of its range was there before or belongs to libxl and must therefore survive the undo.

"Grant" always means a permission or a mapping here; Xen's grant *table* is never meant.
"""

from typing import NamedTuple

from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.rangeset import Range, RangeSet

__all__ = [
    "IOMEM",
    "IOMEM_PERMISSION",
    "IOPORT",
    "IOPORT_MAPPING",
    "IOPORT_PERMISSION",
    "MAPPINGS",
    "MEMORY_MAPPING",
    "OPS",
    "PERMISSIONS",
    "POPULATE_PHYSMAP",
    "STUBDOM",
    "TARGET",
    "Right",
    "Room",
    "Step",
]

TARGET = "target"  #: grantee: the guest itself
STUBDOM = "stubdom"  #: grantee: the domain its device model runs in

IOMEM = "iomem"  #: a range of mfns
IOPORT = "ioport"  #: a range of I/O ports

IOMEM_PERMISSION = "iomem_permission"
IOPORT_PERMISSION = "ioport_permission"
MEMORY_MAPPING = "memory_mapping"
IOPORT_MAPPING = "ioport_mapping"
POPULATE_PHYSMAP = "populate_physmap"

#: Every operation, in the order in which a plan carries them out: a permission before the mapping that needs it.
OPS = (IOMEM_PERMISSION, IOPORT_PERMISSION, MEMORY_MAPPING, IOPORT_MAPPING, POPULATE_PHYSMAP)
PERMISSIONS = (IOMEM_PERMISSION, IOPORT_PERMISSION)
MAPPINGS = (MEMORY_MAPPING, IOPORT_MAPPING)
#: What each one's range counts.
_KIND = {
    IOMEM_PERMISSION: IOMEM,
    MEMORY_MAPPING: IOMEM,
    IOPORT_PERMISSION: IOPORT,
    IOPORT_MAPPING: IOPORT,
    POPULATE_PHYSMAP: "physmap",
}
_VERBS = {
    (IOMEM_PERMISSION, True): "grant",
    (IOMEM_PERMISSION, False): "revoke",
    (IOPORT_PERMISSION, True): "grant",
    (IOPORT_PERMISSION, False): "revoke",
    (MEMORY_MAPPING, True): "map",
    (MEMORY_MAPPING, False): "unmap",
    (IOPORT_MAPPING, True): "map",
    (IOPORT_MAPPING, False): "unmap",
    (POPULATE_PHYSMAP, True): "populate",
    (POPULATE_PHYSMAP, False): "release",
}


class Right(NamedTuple):
    """A right that policy asks for: ``kind`` (IOMEM in mfns, IOPORT in ports) on ``range`` for ``grantee``, and why."""

    kind: str
    range: Range
    grantee: str
    reason: str
    device: Bdf | None = None


class Room(NamedTuple):
    """A domain's page counts before RAM is populated, and what max_pages is raised to, which may be what it is."""

    nr_pages: int
    max_pages: int
    raised: int


class Step(NamedTuple):
    """One call to Xen.

    ``first`` and ``nr`` (a length) are on the machine side (mfns or ports; gfns for populate_physmap); ``first_guest`` is the
    gfn or guest port of a mapping, None otherwise.  ``domid`` is None while planning ahead of creation.  ``kept`` is the
    part of the range that the undo leaves in place, because libxl grants it too or it was held before us: permissions
    are a set, not a count (xen/common/rangeset.c), so a blind revoke would take libxl's as well.  ``before``, of
    populate_physmap only, is what the undo must find again.
    """

    op: str
    grantee: str
    domid: Domid | None
    first: int
    nr: int
    reason: str = ""
    device: Bdf | None = None
    first_guest: int | None = None
    kept: RangeSet = RangeSet()
    add: bool = True
    before: Room | None = None

    @property
    def kind(self) -> str:
        """IOMEM, IOPORT or "physmap"."""
        return _KIND[self.op]

    @property
    def range(self) -> Range:
        """The machine side, half-open."""
        return Range(self.first, self.first + self.nr)

    @property
    def shared(self) -> bool:
        """Whether the undo leaves the whole range in place."""
        return self.op in PERMISSIONS and self.kept.covers(self.first, self.first + self.nr)

    @property
    def key(self) -> tuple[str, int | None, int, int, int | None]:
        """What makes two steps the same call."""
        return self.op, self.domid, self.first, self.nr, self.first_guest

    def __str__(self) -> str:
        who = self.grantee if self.domid is None else f"{self.grantee} domid={self.domid}"
        at = ""
        if self.first_guest is not None:
            at = f" at {'gfn' if self.kind == IOMEM else 'gport'} {Range(self.first_guest, self.first_guest + self.nr)}"
        unit = "gfn" if self.op == POPULATE_PHYSMAP else self.kind
        return f"{_VERBS[self.op, self.add]} {who} {unit} {self.range}{at}"

    def undo(self) -> tuple["Step", ...]:
        """The steps that take this one back, derived from the very values applied; empty where all of it is kept.

        Until Xen 4.22 unmapping ports also revokes them (xen/arch/x86/domctl.c, XEN_DOMCTL_ioport_mapping), so the part
        that must stay is granted again after it; from 4.23 on that is a no-op.
        """
        if self.op in MAPPINGS:
            back = [self._replace(add=not self.add)]
            if self.op == IOPORT_MAPPING and self.add:
                back += [
                    self._replace(op=IOPORT_PERMISSION, first=r.start, nr=r.nr, first_guest=None, add=True)
                    for r in self.kept & RangeSet([self.range])
                ]
            return tuple(back)
        if self.op == POPULATE_PHYSMAP:
            return (self._replace(add=not self.add),)
        return tuple(
            self._replace(first=r.start, nr=r.nr, add=not self.add) for r in RangeSet([self.range]) - self.kept
        )
