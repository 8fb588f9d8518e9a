# SPDX-License-Identifier: LGPL-2.1-only
"""What was granted by us against what Xen reports."""

from collections.abc import Mapping
from typing import NamedTuple

from xlplug.execute.journal import Journal
from xlplug.model.hypervisor import HeldRights, Store
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOMEM, IOPORT, PERMISSIONS, POPULATE_PHYSMAP


class Comparison(NamedTuple):
    """A domain's rights: granted by us, reported by Xen; ``state`` is the journal's.

    For ``kind`` "physmap" ``ours`` are gfns that we populated, and ``held`` the same: Xen cannot be asked.
    """

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


def compare(target: int, held: Mapping[int, HeldRights], store: Store) -> tuple[Comparison, ...]:
    """Ours against Xen's, for a target and the stubdomain that its journal names.

    ``held`` is what Xen reports of all domains: it reports no less, so ask once for any number of targets.
    """
    entry = Journal(store, target, None).read()
    grantees = {target: "target"} | {int(s.domid): s.grantee for s in entry.every if s.domid is not None}
    found = []
    for domid, grantee in grantees.items():
        rights = held.get(domid, HeldRights())
        for kind, has in ((IOMEM, rights.memory), (IOPORT, rights.ports)):
            ours = RangeSet(s.range for s in entry.every if s.domid == domid and s.kind == kind and s.op in PERMISSIONS)
            found.append(Comparison(domid, grantee, kind, ours, has, entry.state))
        populated = RangeSet(s.range for s in entry.every if s.domid == domid and s.op == POPULATE_PHYSMAP)
        if populated:
            found.append(Comparison(domid, grantee, "physmap", populated, populated, entry.state))
    return tuple(found)
