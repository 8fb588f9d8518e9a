# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug record``: save a host or a domain, to plan with elsewhere."""

import sys

from xlplug.commands.common import find_domain, parse_domain, readable_xen, say
from xlplug.dom0 import nodes
from xlplug.model.errors import EXIT_DONE, HostError


def record_host(path: str) -> int:
    """Save this host as JSON; ``-`` is stdout."""
    from xlplug.dom0 import snapshot
    from xlplug.dom0.recording import dump_host

    with readable_xen() as (xen, store):
        host = snapshot.take(xen, store)
    text = dump_host(host)
    if path == "-":
        sys.stdout.write(text)
        return EXIT_DONE
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="give a path that can be written") from error
    say(f"recorded host {host.name}: {len(host.devices)} PCI functions, {len(host.memory)} memory regions")
    for note in host.notes:
        say(f"  not recorded: {note}")
    return EXIT_DONE


def record_domain(text: str, folder: str) -> int:
    """Save a living domain, its host and its configuration into a folder."""
    from xlplug.dom0 import domains, snapshot
    from xlplug.dom0.recording import DomainRecording, scrub_libxl, write_domain
    from xlplug.model.hypervisor import HeldRights
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    domain = parse_domain(text)
    with XenCtrl() as xen, XenStore() as store:
        target = find_domain(domain, xen, store)
        domid = target.domid
        stub = domains.stubdom_of(domid, store)
        held = xen.held()
        libxl_json = domains.libxl_json(target)
        recording = DomainRecording(
            host=snapshot.take(xen, store),
            target=target,
            target_rights=held.get(domid, HeldRights()),
            stubdom=None if stub is None else xen.domain_info(stub),
            stubdom_rights=held.get(stub or -1, HeldRights()),
            name=store.read(nodes.name(domid)) or "",
            libxl_json=None if libxl_json is None else scrub_libxl(libxl_json),
        )
    try:
        write_domain(recording, folder)
    except OSError as error:
        raise HostError(f"{folder}: {error.strerror}", hint="give a folder that can be written") from error
    say(f"recorded domain {domid} ({recording.name}) in {folder}")
    return EXIT_DONE
