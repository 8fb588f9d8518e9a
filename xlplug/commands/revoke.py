# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug revoke``: take back what was granted to a domain."""

from xlplug.commands.common import find_domain, interruptible, parse_domain, print_json, say
from xlplug.model.errors import EXIT_DONE

REVOKE_SCHEMA = "xlplug/revoke/1"


def revoke(text: str, form: str) -> int:
    """Take back what was granted to a domain, given by domid or name."""
    from xlplug.dom0 import lock
    from xlplug.execute import grants
    from xlplug.execute.signals import keep_waiting
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    domain = parse_domain(text)
    interruptible()
    with XenCtrl() as xen, XenStore() as store, lock.locked():
        domid = find_domain(domain, xen, store).domid
        keep_waiting()
        steps = grants.revoke(domid, xen, store, (lambda _: None) if form == "json" else say)
    if form == "json":
        from xlplug.commands.plan import step_json

        # The steps that had been granted: docs/revoke.schema.json.
        print_json(
            {"schema": REVOKE_SCHEMA, "target": domid, "revoked": [step_json(step) for step in steps]}, done=True
        )
    elif steps:
        # Fewer than the lines above where the device model's own mappings went first.
        say(f"done: {len(steps)} {'step' if len(steps) == 1 else 'steps'} of the grant taken back")
    else:
        say(f"nothing to do: xlplug has granted domain {domid} nothing")
    return EXIT_DONE
