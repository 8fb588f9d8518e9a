# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug verify``: the record of a guest's BARs against Xen, the host and the guest."""

import os
from typing import NamedTuple

from xlplug.commands.common import find_domain, parse_domain, print_json, print_lines
from xlplug.delegate import record
from xlplug.delegate.admit import guest
from xlplug.delegate.lifetime import has_open, lock_path
from xlplug.delegate.state import State
from xlplug.delegate.verify import Kept, Report, Seen, report_json, report_text, verify
from xlplug.dom0 import pci
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, Refused
from xlplug.model.problem import Problem
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.store import XenStore

__all__ = ["VerifyOptions", "verify_command"]

_TRIES = 5


class VerifyOptions(NamedTuple):
    """``xlplug verify``'s options."""

    domain: str
    format: str = "text"


def verify_command(options: VerifyOptions) -> int:
    """Compare the record of a guest with Xen, the host and the guest; 1 when something is wrong."""
    domain = parse_domain(options.domain)
    with XenCtrl() as xen, XenStore() as store:
        domid = find_domain(domain, xen, store).domid
        info = guest(domid, xen)
        found = record.read(store, domid)
        if found is None or found.uuid != info.uuid:
            raise Refused(
                Problem(
                    f"nothing is recorded for domain {domid}",
                    "it has no delegate, and no device that xlplug knows of",
                    code="XLP713",
                )
            )
        report = _seen(found, xen, pci.owners(store))
    if options.format == "json":
        print_json(report_json(report))
    else:
        print_lines(report_text(report).splitlines())
    return EXIT_REFUSED if report.problems else EXIT_DONE


def _seen(found: record.Record, xen: XenCtrl, owners: dict[Bdf, Domid]) -> Report:
    """Read everything, and compare; again when the guest has moved a BAR meanwhile."""
    hosts = tuple((device.host, False) for device in (*found.device_model, *found.delegate))
    host = {device.bdf: device for device in pci.functions(hosts, owners)[0]}
    process = found.process
    supervised = process is not None and record.process_started(process.pid) == process.started
    tries = _TRIES
    while True:
        before, _ = _kept(found)
        held, servers = xen.held(), xen.ioreq_servers().get(found.domid, ())
        after, pid = _kept(found)
        tries -= 1
        if before == after or not tries:
            return verify(found, Seen(servers, held, host, after, pid, supervised))


def _kept(found: record.Record) -> tuple[tuple[Kept, ...], int]:
    """What the delegate keeps, and the process that serves if it lives."""
    state = State.read(found.process.state) if found.process is not None else None
    if state is None:
        return (), 0
    functions = []
    for device, function in zip(found.delegate, state.functions, strict=False):
        asked = {bar.number: at for bar in device.bars if (at := function.ranges[bar.number]) is not None}
        functions.append(Kept(bytes(function.registers), asked))
    # The number may be another process's by now.  A delegate has its domain's lock open, in the folder of its state.
    assert found.process is not None  # noqa: S101 - without one there is no state
    lock = lock_path(f"dm-{found.domid}", os.path.dirname(found.process.state))
    return tuple(functions), state.pid if has_open(state.pid, lock) else 0
