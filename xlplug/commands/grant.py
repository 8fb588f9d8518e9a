# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug grant``: plan for a domain and carry it out, on the running Xen or on a recorded domain in memory."""

import sys
from typing import NamedTuple

from xlplug.commands.common import interruptible, parse_domid, read_config, say
from xlplug.dom0 import nodes
from xlplug.dom0.find_config import parse
from xlplug.model.addr import Domid
from xlplug.model.errors import EXIT_DONE, ConfigError, Refused
from xlplug.model.hypervisor import Hypervisor, Store
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.problem import Problem
from xlplug.plan import Plan


class GrantOptions(NamedTuple):
    """``xlplug grant``'s options."""

    domid: str
    config: str | None = None
    recorded: str | None = None
    dry_run: bool = False
    map_legacy: bool = False


def grant(options: GrantOptions) -> int:
    """Plan for a domain and carry it out, on the running Xen or on a recorded domain in memory."""
    from xlplug.plan import domid_refusals

    domid = parse_domid(options.domid, "domid")
    refusals = domid_refusals(Who(domid))
    if refusals or domid is None:
        raise Refused(*refusals)
    if options.recorded is not None:
        return _grant_recorded(options, domid)
    from xlplug.dom0 import domains, lock, snapshot
    from xlplug.model.hypervisor import HeldRights
    from xlplug.plan import build, mapped_in_vain
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    interruptible()
    with XenCtrl() as xen, XenStore() as store, lock.locked():
        info = xen.domain_info(domid)
        if info is None:
            raise Refused(Problem(f"domain {domid} does not exist", "see 'xl list'"))
        if options.config is None:
            config = domains.domain_config(info)
        else:
            config = parse(read_config(options.config), options.config)
            name = store.read(nodes.name(domid)) or ""
            if config.name != name:
                text = f"{options.config} is for domain '{config.name}', but domain {domid} is '{name}'"
                raise Refused(Problem(text, "give that domain's config"))
        host, who = snapshot.take(xen, store, config), Who(domid, domains.stubdom_of(domid, store))
        made = build(config, host, who, BY_HAND, map_legacy=options.map_legacy)
        if not options.map_legacy and mapped_in_vain(made, xen.held().get(domid, HeldRights())):
            say("the device model has the display already and could not map it: mapped here, as with --map-legacy")
            made = build(config, host, who, BY_HAND, map_legacy=True)
        return _carry_out(made, xen, store, options)


def _grant_recorded(options: GrantOptions, domid: Domid) -> int:
    from xlplug.dom0.recording import load_domain
    from xlplug.plan import build
    from xlplug.xen.in_memory import MemStore, MemXen

    folder = options.recorded or ""
    recorded = load_domain(folder)
    if recorded.target.domid != domid:
        text = f"the recording in {folder} is of domain {recorded.target.domid}, not {domid}"
        raise Refused(Problem(text, "give that number"))
    if options.config is not None:
        data, path = read_config(options.config), options.config
    elif recorded.config is not None:
        data, path = recorded.config, f"{folder}/domain.cfg"
    elif recorded.libxl_json is not None:
        data, path = recorded.libxl_json, f"{folder}/libxl.json"
    else:
        raise ConfigError("no domain.cfg and no libxl.json", path=folder, hint="give the xl config with --config")
    version = recorded.host.xen.version if recorded.host.xen else (4, 17)
    xen, store = MemXen(version), MemStore()
    xen.add_domain(recorded.target, recorded.target_rights)
    stubdom = None
    if recorded.stubdom is not None:
        xen.add_domain(recorded.stubdom, recorded.stubdom_rights)
        stubdom = Domid(recorded.stubdom.domid)
    when = BY_HAND._replace(ram_left=None)  # of a recorded domain, nothing has started
    made = build(parse(data, path), recorded.host, Who(domid, stubdom), when, map_legacy=options.map_legacy)
    code = _carry_out(made, xen, store, options)
    if not options.dry_run:
        for number, rights in xen.held().items():
            if number:
                say(f"domain {number} would hold I/O Memory {rights.memory} I/O Ports {rights.ports}")
    return code


def _carry_out(made: "Plan", xen: "Hypervisor", store: "Store", options: GrantOptions) -> int:
    from xlplug.execute import grants

    for text in made.warnings:
        sys.stderr.write(f"xlplug: warning: {text}\n")
    if made.refusals:
        raise Refused(*made.refusals)
    if options.dry_run:
        for step in made.steps:
            say(f"{step}  ({step.reason})")
        say(f"dry run: {len(made.steps)} steps, nothing was changed")
        return EXIT_DONE
    outcome = grants.grant(made, xen, store, say)
    if outcome.done:
        say(f"done: {len(outcome.done)} steps; take them back with 'xlplug revoke {made.target}'")
    elif outcome.already:
        say(f"nothing to do: all {len(outcome.already)} steps were done before")
    else:
        say("nothing to do: this domain needs no legacy range")
    return EXIT_DONE
