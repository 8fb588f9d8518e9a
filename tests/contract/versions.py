# SPDX-License-Identifier: LGPL-2.1-only
"""All that differs between Xen versions: the only place where a test, here or in the lab, may ask for one."""

from typing import NamedTuple

from xlplug.model.hypervisor import HeldRights
from xlplug.model.rangeset import RangeSet

__all__ = ["INTERFACES", "PERSONALITIES", "Behaviour", "behaviour"]

#: What the suite makes of the hypervisor in memory; the lab has a real 4.14, 4.17 and 4.20.
PERSONALITIES = ((4, 14), (4, 15), (4, 16), (4, 17), (4, 20), (4, 22), (4, 23))

#: Interface versions of domctls and of sysctls.  Xen refuses a library of another one, each kind of call by its own number.
#: Measured on 4.14, 4.17 and 4.20; 4.15 to 4.22 and the development tree of August 2026 as in Xen's source:
#: xen/include/public/domctl.h and sysctl.h, XEN_DOMCTL_INTERFACE_VERSION and XEN_SYSCTL_INTERFACE_VERSION.
INTERFACES = {
    (4, 14): (0x12, 0x13), (4, 15): (0x13, 0x13), (4, 16): (0x14, 0x14), (4, 17): (0x15, 0x15), (4, 18): (0x16, 0x15),
    (4, 19): (0x17, 0x15), (4, 20): (0x17, 0x15), (4, 21): (0x17, 0x16), (4, 22): (0x18, 0x16), (4, 23): (0x18, 0x16),
}  # fmt: skip


def _rights(ports: str, memory: str) -> HeldRights:
    return HeldRights(RangeSet.parse(ports), RangeSet.parse(memory))


class Behaviour(NamedTuple):
    """What a version does."""

    #: What dom0 holds by itself on the lab's machine.
    dom0: HeldRights = _rights(
        "{ 0-1f, 22-3f, 44-60, 62-9f, a2-3f7, 400-607, 60c-cfb, d00-ffff }", "{ 0-fed8f, fed91-fedff, fef00-fcfffff }"
    )
    #: libxenctrl's raw answer to a memory mapping for a domain that is not there while a higher one is: -EINVAL, and
    #: errno of some earlier call.  Then: -1, and errno ESRCH.
    mapping_for_no_domain: int = -22
    #: A page that cannot be placed fails the populating: EBUSY.  Before, it is lost and the call succeeds.
    populate_checked: bool = False
    #: Unmapping memory needs the permission of the caller only, no longer of the domain too.
    unmap_by_caller: bool = False
    #: Mapping ports grants them and unmapping revokes them.
    port_mapping_grants: bool = True
    #: libxenstore's soname.
    libxenstore: str = "libxenstore.so.3.0"
    #: libxendevicemodel has interface 1.4: nr_vcpus and set_irq_level.
    devicemodel_1_4: bool = True


_OLDEST = Behaviour(devicemodel_1_4=False)
_4_15 = _OLDEST._replace(devicemodel_1_4=True)
_4_16 = _4_15._replace(populate_checked=True, libxenstore="libxenstore.so.4")
_4_18 = _4_16._replace(mapping_for_no_domain=-1)
_4_20 = _4_18._replace(
    dom0=_rights(
        "{ 0-1f, 22-3f, 44-60, 62-91, 93-9f, a2-ef, f1-3f7, 400-4cf, 4d2-607, 60c-cf8, cfa-cfb, d00-ffff }",
        "{ 0-fed8f, fed91-fedff, fee01-fcfffff }",
    )
)
_4_22 = _4_20._replace(unmap_by_caller=True)
_4_23 = _4_22._replace(port_mapping_grants=False)

#: By first version.  Measured on 4.14, 4.17, 4.20 and 4.23-dev; the bounds between those are of Xen's source: 4.15 and 4.16
#: in tools/libs/devicemodel and tools/libs/store, Makefile; 4.16 in xen/common/memory.c, populate_physmap; 4.18 in
#: tools/libs/ctrl/xc_domain.c, xc_domain_memory_mapping; 4.22 in xen/common/domctl.c, XEN_DOMCTL_memory_mapping.
_SINCE = {
    (4, 14): _OLDEST, (4, 15): _4_15, (4, 16): _4_16, (4, 18): _4_18, (4, 20): _4_20, (4, 22): _4_22, (4, 23): _4_23,
}  # fmt: skip


def behaviour(version: tuple[int, int]) -> Behaviour:
    """What that version does."""
    return _SINCE[max(since for since in _SINCE if since <= version)]
