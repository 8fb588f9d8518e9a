# SPDX-License-Identifier: LGPL-2.1-only
"""libxentoolcore: giving up power over every domain but one, for all handles that are open in this process."""

from xlplug.model.hypervisor import check_domid
from xlplug.xen.lib import check, ffi, load_stable

__all__ = ["restrict_all"]


def restrict_all(domid: int) -> None:
    """Restrict every open handle of a Xen library to one domain, for good.

    Handles on libxendevicemodel, libxenforeignmemory and libxenevtchn then work for that domain alone (EPERM or EACCES for
    others).  Handles on libxenctrl and libxenstore are dead.  Handles that are opened later are not restricted: what keeps a
    process from opening one is its user.  Never in a process that shares open handles with another one, a forked child that
    inherited them for example: the other's are restricted too.

    Raises:
        XenError: EACCES when some handle is restricted already, EINVAL for domid 0.
    """
    check_domid("xentoolcore_restrict_all", domid)
    library = load_stable("xentoolcore")
    ffi.errno = 0
    check(
        "xentoolcore_restrict_all", library.xentoolcore_restrict_all(domid), f"domid={domid}",
        hint="a process can be restricted once, and not to dom0",
    )  # fmt: skip
