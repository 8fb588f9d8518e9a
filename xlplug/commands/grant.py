# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug grant``: plan for a domain and carry it out, on the running Xen or on a recorded domain in memory."""

from typing import Any, NamedTuple

from xlplug.commands.common import find_domain, interruptible, parse_domain, print_json, read_config, say, warn
from xlplug.dom0.find_config import parse
from xlplug.execute.grants import Outcome
from xlplug.model.addr import Domid
from xlplug.model.errors import EXIT_DONE, ConfigError, NotOnXenError, Refused, StoreError
from xlplug.model.hypervisor import Hypervisor, Store
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.problem import Problem
from xlplug.plan import Plan, build

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.delegate.record import RecordStore

GRANT_SCHEMA = "xlplug/grant/1"


class GrantOptions(NamedTuple):
    """``xlplug grant``'s options; ``domain`` is a domid or a name."""

    domain: str
    config: str | None = None
    recorded: str | None = None
    dry_run: bool = False
    map_legacy: bool = False
    format: str = "text"

    @property
    def rehearsal(self) -> bool:
        """Whether nothing of this host is touched."""
        return self.dry_run or self.recorded is not None


def grant(options: GrantOptions) -> int:
    """Plan for a domain and carry it out, on the running Xen or on a recorded domain in memory."""
    domain = parse_domain(options.domain)
    if options.recorded is not None:
        return _grant_recorded(options, domain)
    try:
        return _grant_living(options, domain)
    except NotOnXenError as error:
        raise NotOnXenError(error.message, hint=f"{error.hint}, or use --recorded") from error


def _grant_living(options: GrantOptions, domain: Domid | str) -> int:
    from xlplug.dom0 import domains, lock, nodes, snapshot
    from xlplug.execute import grants
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    interruptible()
    with XenCtrl() as xen, XenStore() as store, lock.locked():
        info = find_domain(domain, xen, store)
        if options.config is None:
            config = domains.domain_config(info)
        else:
            config = parse(read_config(options.config), options.config)
            name = store.read(nodes.name(info.domid)) or ""
            if config.name != name:
                text = f"{options.config} is for domain '{config.name}', but domain {info.domid} is '{name}'"
                raise Refused(Problem(text, "give that domain's config", code="XLP217"))
        who = Who(info.domid, domains.stubdom_of(info.domid, store))
        host = snapshot.take(xen, store, config, stubdom=who.stubdom is not None)
        made = build(config, host, who, BY_HAND, map_legacy=options.map_legacy)
        if not options.map_legacy and grants.tried_in_vain(made, xen, store):
            what = "the device model has the display already and could not map it"
            warn([Problem(what, "mapped here, as with --map-legacy", code="XLP345")])
            made = build(config, host, who, BY_HAND, map_legacy=True)
        code = _carry_out(made, xen, store, options)
        if not options.dry_run:
            _note_devices(made, who, info.uuid, store)
        return code


def _note_devices(made: Plan, who: Who, uuid: str, store: "RecordStore") -> None:
    """Write down the BARs of what is assigned.  Where that fails, what was granted stands, and so does the exit status."""
    from xlplug.delegate import record

    try:
        record.note_device_model(store, who, uuid, (assigned.device for assigned in made.devices))
    except StoreError as error:
        warn([error.problem])


def _grant_recorded(options: GrantOptions, domain: Domid | str) -> int:
    from xlplug.dom0 import nodes
    from xlplug.dom0.recording import load_domain
    from xlplug.xen.in_memory import MemStore, MemXen

    folder = options.recorded or ""
    recorded = load_domain(folder)
    if domain not in (recorded.target.domid, recorded.name):
        text = f"the recording in {folder} is of domain {recorded.target.domid} ({recorded.name}), not {domain}"
        raise Refused(Problem(text, "give that number or name", code="XLP217"))
    if options.config is not None:
        data, path = read_config(options.config), options.config
    elif recorded.config is not None:
        data, path = recorded.config, f"{folder}/domain.cfg"
    elif recorded.libxl_json is not None:
        data, path = recorded.libxl_json, f"{folder}/libxl.json"
    else:
        raise ConfigError(
            "no domain.cfg and no libxl.json", path=folder, hint="give the xl config with --config", code="XLP206"
        )
    version = recorded.host.xen.version if recorded.host.xen else (4, 17)
    xen, store = MemXen(version), MemStore()
    xen.add_domain(recorded.target, recorded.target_rights)
    store.write(nodes.domain(recorded.target.domid), "")
    if recorded.stubdom is not None:
        xen.add_domain(recorded.stubdom, recorded.stubdom_rights)
        store.write(nodes.target(recorded.stubdom.domid), str(recorded.target.domid))
    who = Who(recorded.target.domid, None if recorded.stubdom is None else recorded.stubdom.domid)
    when = BY_HAND._replace(ram_left=None)  # of a recorded domain, nothing has started
    made = build(parse(data, path), recorded.host, who, when, map_legacy=options.map_legacy)
    code = _carry_out(made, xen, store, options)
    if not options.dry_run and options.format == "text":
        for number, rights in xen.held().items():
            if number:
                say(f"domain {number} would hold I/O Memory {rights.memory} I/O Ports {rights.ports}")
    return code


def _carry_out(made: Plan, xen: Hypervisor, store: Store, options: GrantOptions) -> int:
    from xlplug.execute import grants
    from xlplug.execute.signals import keep_waiting

    if options.dry_run:
        return _dry_run(made, options)
    if made.refusals:
        raise Refused(*made.refusals)
    as_json = options.format == "json"
    if not as_json:
        warn(made.warnings)
    keep_waiting()
    outcome = grants.grant(made, xen, store, (lambda _: None) if as_json else say)
    if as_json:
        print_json(grant_json(made, outcome), done=True)
    elif outcome.done:
        say(f"done: {len(outcome.done)} steps; take them back with 'xlplug revoke {made.target}'")
    elif outcome.already:
        say(f"nothing to do: all {len(outcome.already)} steps were done before; their permissions are given once more")
    else:
        say("nothing to do: this domain needs no legacy range")
    return EXIT_DONE


def _dry_run(made: Plan, options: GrantOptions) -> int:
    """What ``xlplug plan`` prints, and its status."""
    from xlplug.commands.plan import print_plan

    code = print_plan(made, options.format)
    if options.format == "text":
        say("dry run: nothing was changed")
    return code


def grant_json(made: Plan, outcome: Outcome) -> dict[str, Any]:
    """What was done, as docs/grant.schema.json describes it."""
    from xlplug.commands.plan import step_json

    return {
        "schema": GRANT_SCHEMA,
        "target": made.target,
        "stubdom": made.stubdom,
        "done": [step_json(step) for step in outcome.done],
        "already": [step_json(step) for step in outcome.already],
        "warnings": [problem._asdict() for problem in made.warnings],
    }
