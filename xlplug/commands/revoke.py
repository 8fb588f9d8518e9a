# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug revoke``: take back what was granted to a domain."""

from xlplug.commands.common import interruptible, parse_domid, say
from xlplug.model.errors import EXIT_DONE, Refused
from xlplug.model.occasion import Who
from xlplug.model.problem import Problem


def revoke(text: str) -> int:
    """Take back what was granted to a domain."""
    from xlplug.dom0 import lock
    from xlplug.execute import grants
    from xlplug.plan import domid_refusals
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    domid = parse_domid(text, "domid")
    refusals = domid_refusals(Who(domid))
    if refusals or domid is None:
        raise Refused(*refusals)
    interruptible()
    with XenCtrl() as xen, XenStore() as store, lock.locked():
        if xen.domain_info(domid) is None:
            raise Refused(Problem(f"domain {domid} does not exist", "see 'xl list'"))
        steps = grants.revoke(domid, xen, store, say)
    say(
        f"done: {len(steps)} steps taken back" if steps else f"nothing to do: xlplug has granted domain {domid} nothing"
    )
    return EXIT_DONE
