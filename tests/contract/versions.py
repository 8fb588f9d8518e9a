# SPDX-License-Identifier: LGPL-2.1-only
"""All that differs between Xen versions, as far as the contract goes: the only place where a test may ask for one."""

from typing import NamedTuple

__all__ = ["PERSONALITIES", "Behaviour", "behaviour"]

#: What the suite makes of the hypervisor in memory; the lab has a real 4.17 and a real 4.20.
PERSONALITIES = ((4, 14), (4, 15), (4, 16), (4, 17), (4, 20), (4, 22), (4, 23))


class Behaviour(NamedTuple):
    """What a version does."""

    #: A page that cannot be placed fails the populating: EBUSY.  Before, it is lost and the call succeeds.
    populate_checked: bool = False
    #: Unmapping memory needs the permission of the caller only, no longer of the domain too.
    unmap_by_caller: bool = False
    #: Mapping ports grants them and unmapping revokes them.
    port_mapping_grants: bool = True


#: By first version.  Measured on 4.14, 4.17, 4.20 and 4.23-dev; the bounds 4.16 and 4.22 are of Xen's source:
#: xen/common/memory.c, populate_physmap, and xen/common/domctl.c, XEN_DOMCTL_memory_mapping.
_SINCE = {
    (4, 14): Behaviour(),
    (4, 16): Behaviour(populate_checked=True),
    (4, 22): Behaviour(populate_checked=True, unmap_by_caller=True),
    (4, 23): Behaviour(populate_checked=True, unmap_by_caller=True, port_mapping_grants=False),
}


def behaviour(version: tuple[int, int]) -> Behaviour:
    """What that version does."""
    return _SINCE[max(since for since in _SINCE if since <= version)]
