# SPDX-License-Identifier: LGPL-2.1-only
"""What each command does, with its options as values: no click here, so that the hot ones start without it.

A command prints its results to stdout, returns its exit code, and raises `XlplugError` for anything to be said as one
line.  Modules that only some commands need are imported where they are used.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from xlplug.dom0.find_config import MAX_BYTES, parse
from xlplug.model.addr import Domid
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, ConfigError, HostError, Refused, XlplugError, one_line

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.model.hypervisor import Hypervisor, Store
    from xlplug.plan import Plan
    from xlplug.xen.ctrl import XenCtrl

__all__ = [
    "GrantOptions",
    "PlanOptions",
    "config",
    "grant",
    "plan",
    "record_domain",
    "record_host",
    "revoke",
    "run",
    "show",
]


class GrantOptions(NamedTuple):
    """``xlplug grant``'s options."""

    domid: str
    config: str | None = None
    recorded: str | None = None
    dry_run: bool = False
    map_legacy: bool = False


class PlanOptions(NamedTuple):
    """``xlplug plan``'s options."""

    config: str
    extra: tuple[str, ...] = ()
    host: str | None = None
    target: str | None = None
    stubdom: str | None = None
    map_legacy: bool = False
    format: str = "text"


def run(command: "object", *args: object) -> int:
    """Call a command; an error becomes its one line on stderr and its exit code."""
    try:
        code = command(*args)  # type: ignore[operator]
        sys.stdout.flush()
    except XlplugError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; nothing was changed")
        return EXIT_REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_DONE
    return int(code)


def _complain(text: str) -> None:
    sys.stderr.write(one_line(text))


def _say(line: str) -> None:
    """A line of progress; a reader that went away must not stop what is half done."""
    try:
        sys.stdout.write(f"{line}\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _read(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(MAX_BYTES)
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise ConfigError(
            error.strerror or "cannot be read", path=path, hint="give the path of an xl config"
        ) from error


def _domid(text: str | None, option: str) -> Domid | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise HostError(f"{option} '{text}' is no domid", hint="give a number from 'xl list'")
    return Domid(int(text))


# plan and config ------------------------------------------------------------------------------------------------------


def plan(options: PlanOptions) -> int:
    """Print the plan for a configuration; 1 when it is refused."""
    from xlplug.commands.text import plan_json, plan_text
    from xlplug.dom0.recording import load_host
    from xlplug.physmap import FRESH
    from xlplug.plan import build

    config = parse(_read(options.config), options.config, options.extra)
    why = FRESH
    if options.host is not None:
        host = load_host(options.host)
    else:
        from xlplug.dom0 import domains
        from xlplug.hook import create

        why = create.hindrance(config, create.found_wrapper() or "")
        with _readable_xen() as (xen, store):
            host = domains.snapshot(xen, store)
    made = build(
        config,
        host,
        _domid(options.target, "--target"),
        _domid(options.stubdom, "--stubdom"),
        map_legacy=options.map_legacy,
        hindrance=why,
    )
    if options.format == "json":
        import json

        sys.stdout.write(json.dumps(plan_json(made), indent=1) + "\n")
    else:
        sys.stdout.write(plan_text(made))
    return EXIT_REFUSED if made.refusals else EXIT_DONE


def abi(program: str | None, form: str) -> int:
    """Print what a device model, by default xl's own, imports from ABI-unstable libraries; 1 when it does not fit.

    Raises:
        HostError: it cannot be read; or xl's own cannot be told, or this is no Xen.
    """
    from xlplug.abi.elf import look_into
    from xlplug.abi.symbols import abi_json, abi_text
    from xlplug.hook.device_model import real
    from xlplug.model.errors import XenUnavailableError
    from xlplug.xen.lib import running_version

    try:
        running = running_version()[2]
    except XenUnavailableError as error:
        if program is None:
            raise HostError(error.message, hint="give the path of a QEMU to look at") from error
        running = ""
    if program is None:
        program = real("")
    report = look_into(program, running)
    if form == "json":
        import json

        sys.stdout.write(json.dumps(abi_json(report), indent=1) + "\n")
    else:
        sys.stdout.write(abi_text(report))
    return EXIT_REFUSED if report.problems else EXIT_DONE


@contextmanager
def _readable_xen() -> Iterator["tuple[XenCtrl | None, Store | None]"]:
    """Xen and xenstore where they can be had; planning goes on without."""
    from xlplug.model.errors import XenUnavailableError
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    try:
        xen = XenCtrl()
    except XenUnavailableError:
        yield None, None
        return
    with xen, XenStore() as store:
        yield xen, store


def config(files: Sequence[str]) -> int:
    """One JSON object a line for each file; 1 when any is bad."""
    from json import dumps

    from xlplug.config import language

    code = EXIT_DONE
    for path in files:
        try:
            settings = language.parse(_read(path), path=path)
        except ConfigError as error:
            code = EXIT_REFUSED
            message = f"{error.message}; {error.hint}" if error.hint else error.message
            where = {"line": error.line, "column": error.column, "message": message}
            sys.stdout.write(dumps({"file": path, "error": where}) + "\n")
            continue
        body = ", ".join(f"{dumps(name)}: {language.json_value(value)}" for name, value in settings.items())
        sys.stdout.write(f'{{"file": {dumps(path)}, "settings": {{{body}}}}}\n')
    return code


# grant, revoke, show --------------------------------------------------------------------------------------------------


def grant(options: GrantOptions) -> int:
    """Plan for a domain and carry it out, on the running Xen or on a recorded domain in memory."""
    from xlplug.plan import domid_refusals

    domid = _domid(options.domid, "domid")
    refusals = domid_refusals(domid, None)
    if refusals or domid is None:
        raise Refused(tuple(refusals))
    if options.recorded is not None:
        return _grant_recorded(options, domid)
    from xlplug.dom0 import domains
    from xlplug.plan import build
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    _interruptible()
    with XenCtrl() as xen, XenStore() as store, domains.locked():
        info = xen.domain_info(domid)
        if info is None:
            raise Refused((f"domain {domid} does not exist; see 'xl list'",))
        if options.config is None:
            config = domains.domain_config(info)
        else:
            config = parse(_read(options.config), options.config)
            name = store.read(f"/local/domain/{domid}/name") or ""
            if config.name != name:
                text = f"{options.config} is for domain '{config.name}', but domain {domid} is '{name}'"
                raise Refused((f"{text}; give that domain's config",))
        made = build(
            config,
            domains.snapshot(xen, store, config),
            domid,
            domains.stubdom_of(domid, store),
            map_legacy=options.map_legacy,
            granting=True,
        )
        return _carry_out(made, xen, store, options)


def _grant_recorded(options: GrantOptions, domid: Domid) -> int:
    from xlplug.dom0.recording import load_domain
    from xlplug.physmap import FRESH
    from xlplug.plan import build
    from xlplug.xen.in_memory import MemStore, MemXen

    folder = options.recorded or ""
    recorded = load_domain(folder)
    if recorded.target.domid != domid:
        text = f"the recording in {folder} is of domain {recorded.target.domid}, not {domid}"
        raise Refused((f"{text}; give that number",))
    if options.config is not None:
        data, path = _read(options.config), options.config
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
    made = build(
        parse(data, path), recorded.host, domid, stubdom, map_legacy=options.map_legacy, granting=True, hindrance=FRESH
    )
    code = _carry_out(made, xen, store, options)
    if not options.dry_run:
        for number, rights in xen.held().items():
            if number:
                _say(f"domain {number} would hold I/O Memory {rights.memory} I/O Ports {rights.ports}")
    return code


def _carry_out(made: "Plan", xen: "Hypervisor", store: "Store", options: GrantOptions) -> int:
    from xlplug.execute import grants

    for text in made.warnings:
        sys.stderr.write(f"xlplug: warning: {text}\n")
    if made.refusals:
        raise Refused(made.refusals)
    if options.dry_run:
        for step in made.steps:
            _say(f"{step}  ({step.reason})")
        _say(f"dry run: {len(made.steps)} steps, nothing was changed")
        return EXIT_DONE
    outcome = grants.grant(made, xen, store, _say)
    if outcome.done:
        _say(f"done: {len(outcome.done)} steps; take them back with 'xlplug revoke {made.target}'")
    elif outcome.already:
        _say(f"nothing to do: all {len(outcome.already)} steps were done before")
    else:
        _say("nothing to do: this domain needs no legacy range")
    return EXIT_DONE


def revoke(text: str) -> int:
    """Take back what was granted to a domain."""
    from xlplug.dom0 import domains
    from xlplug.execute import grants
    from xlplug.plan import domid_refusals
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    domid = _domid(text, "domid")
    refusals = domid_refusals(domid, None)
    if refusals or domid is None:
        raise Refused(tuple(refusals))
    _interruptible()
    with XenCtrl() as xen, XenStore() as store, domains.locked():
        if xen.domain_info(domid) is None:
            raise Refused((f"domain {domid} does not exist; see 'xl list'",))
        steps = grants.revoke(domid, xen, store, _say)
    _say(
        f"done: {len(steps)} steps taken back" if steps else f"nothing to do: xlplug has granted domain {domid} nothing"
    )
    return EXIT_DONE


def show(text: str | None) -> int:
    """Ours, Xen's, and the difference, for one domain or for each that we granted anything."""
    from xlplug.commands.text import comparison_text
    from xlplug.execute import grants
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    with XenCtrl() as xen, XenStore() as store:
        if text is not None:
            domid = _domid(text, "domid")
            if domid is None or xen.domain_info(domid) is None:
                raise Refused((f"domain {text} does not exist; see 'xl list'",))
            targets = [int(domid)]
        else:
            names = [name for name in store.list("/libxl") if name.isdecimal()]
            targets = sorted(int(name) for name in names if store.read(f"/libxl/{name}/xlplug/state"))
        for target in targets:
            sys.stdout.write(comparison_text(grants.compare(target, xen, store)))
        if not targets:
            _say("xlplug has granted nothing on this host")
    return EXIT_DONE


def _interruptible() -> None:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: with everything undone."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


# record ---------------------------------------------------------------------------------------------------------------


def record_host(path: str) -> int:
    """Save this host as JSON; ``-`` is stdout."""
    from xlplug.dom0 import domains
    from xlplug.dom0.recording import dump_host

    with _readable_xen() as (xen, store):
        host = domains.snapshot(xen, store)
    text = dump_host(host)
    if path == "-":
        sys.stdout.write(text)
        return EXIT_DONE
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="give a path that can be written") from error
    _say(f"recorded host {host.name}: {len(host.devices)} PCI functions, {len(host.memory)} memory regions")
    for note in host.notes:
        _say(f"  not recorded: {note}")
    return EXIT_DONE


def record_domain(text: str, folder: str) -> int:
    """Save a living domain, its host and its configuration into a folder."""
    from xlplug.dom0 import domains
    from xlplug.dom0.recording import DomainRecording, scrub_libxl, write_domain
    from xlplug.model.hypervisor import HeldRights
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    domid = _domid(text, "domid")
    with XenCtrl() as xen, XenStore() as store:
        target = xen.domain_info(domid) if domid else None
        if domid is None or target is None:
            raise Refused((f"domain {text} does not exist, or is dom0; see 'xl list'",))
        stub = domains.stubdom_of(domid, store)
        held = xen.held()
        libxl_json = domains.libxl_json(target)
        recording = DomainRecording(
            host=domains.snapshot(xen, store),
            target=target,
            target_rights=held.get(domid, HeldRights()),
            stubdom=None if stub is None else xen.domain_info(stub),
            stubdom_rights=held.get(stub or -1, HeldRights()),
            name=store.read(f"/local/domain/{domid}/name") or "",
            libxl_json=None if libxl_json is None else scrub_libxl(libxl_json),
        )
    try:
        write_domain(recording, folder)
    except OSError as error:
        raise HostError(f"{folder}: {error.strerror}", hint="give a folder that can be written") from error
    _say(f"recorded domain {domid} ({recording.name}) in {folder}")
    return EXIT_DONE
