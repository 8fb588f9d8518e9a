# SPDX-License-Identifier: LGPL-2.1-only
"""Which running guests need our wrapper: libxl starts it again, by the path in its record, when such a guest reboots."""

import os

from xlplug.model.errors import ConfigError, HostError, NotOnXenError, Refused, XlplugError
from xlplug.model.hypervisor import Hypervisor, Store
from xlplug.model.problem import Problem

__all__ = ["require_none", "using"]


def require_none(wrapper: str) -> None:
    """Refuse where running guests need the wrapper.

    Raises:
        Refused: they do.
        HostError: on this Xen it cannot be found out.
    """
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    try:
        with XenCtrl() as xen, XenStore() as store:
            guests = using(wrapper, xen, store)
    except NotOnXenError:
        return
    except XlplugError as error:
        raise HostError(
            f"which guests need {wrapper} cannot be found out: {error.message}",
            hint=f"{error.hint}, or give --force",
            code="XLP617",
        ) from error
    if guests:
        raise Refused(
            Problem(
                f"without {wrapper} these would not come back from a reboot of their own: {', '.join(guests)}",
                "shut them down first, or give --force",
                code="XLP616",
            )
        )


def using(wrapper: str, xen: Hypervisor, store: Store) -> list[str]:
    """Every guest whose device model is the wrapper, as ``NAME (domain N)``; also one that is being created."""
    from xlplug.dom0 import domains, nodes

    found = []
    for domid, name in domains.guests(store):
        info = xen.domain_info(domid)
        if info is None or info.dying:
            continue
        try:
            override = domains.domain_config(info).device_model_override or ""
        except ConfigError:  # libxl has no record yet, and none for another toolstack's
            override = wrapper if store.read(f"{nodes.journal(domid)}/state") else ""
        if override == wrapper or (override and os.path.realpath(override) == os.path.realpath(wrapper)):
            found.append(f"{name} (domain {domid})")
    return found
