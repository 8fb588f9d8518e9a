# SPDX-License-Identifier: LGPL-2.1-only
"""When a plan is made, and for whom: what planning has to know beyond the configuration and the host."""

from typing import NamedTuple

from xlplug.model.addr import Domid
from xlplug.model.problem import Problem
from xlplug.model.steps import STUBDOM, TARGET

__all__ = [
    "AHEAD", "BY_HAND", "CREATING", "NOBODY", "NO_LIBRARY", "RESTORING", "RUNNING", "STARTING", "Occasion", "Who",
]  # fmt: skip


class Who(NamedTuple):
    """The guest and the domain that its device model runs in; None where it does not exist yet, or is not a stubdomain."""

    target: Domid | None = None
    stubdom: Domid | None = None

    def domid(self, grantee: str) -> Domid | None:
        """The number of a grantee, `TARGET` or `STUBDOM`."""
        return {TARGET: self.target, STUBDOM: self.stubdom}[grantee]

    @property
    def device_model(self) -> Domid:
        """The domain that the device model runs in: dom0 where there is no stubdomain."""
        return Domid(0) if self.stubdom is None else self.stubdom


NOBODY = Who()  #: planning for a domain that does not exist


class Occasion(NamedTuple):
    """The moment that a plan is for.

    ``granting``: what only matters at creation, such as a device not yet bound to pciback, is a refusal and not a warning.
    ``attach_later``: a display may be plugged in after creation, so a missing one is not a mistake.
    ``ram_left``: why video RAM and option ROMs cannot be populated now; None where they can be.
    """

    name: str
    granting: bool
    attach_later: bool
    ram_left: Problem | None = None

    def without_ram(self, why: Problem | None) -> "Occasion":
        """The same moment for a domain whose RAM cannot be populated, if there is a reason."""
        return self if why is None else self._replace(ram_left=why)


RESTORING = Problem("the domain is restored, and its saved RAM holds them already")
NO_LIBRARY = Problem(
    "libxlplug-preload.so is not installed", "install the package xlplug-preload, or see hooks/preload/README.md"
)
RUNNING = Problem("its device model may have started, and then populates them itself")

AHEAD = Occasion("ahead", granting=False, attach_later=False)  #: ``xlplug plan``: the domain may never be made
CREATING = Occasion("creating", granting=True, attach_later=True)  #: ``xl create`` is about to make the domain
STARTING = Occasion(
    "starting", granting=True, attach_later=True
)  #: libxl has built it, and starts its device model next
#: ``xlplug grant``: a domain that exists, whose device model may have started.
BY_HAND = Occasion("by hand", granting=True, attach_later=False, ram_left=RUNNING)
