# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug record``: save a host or a domain, to plan with elsewhere."""

import os

from xlplug.commands.common import find_domain, parse_domain, say
from xlplug.commands.opening import readable_xen
from xlplug.dom0 import nodes, streams
from xlplug.dom0.files import write_whole
from xlplug.model.errors import EXIT_DONE, HostError
from xlplug.model.host import HostSnapshot


def record_host(path: str, vbt: str | None = None) -> int:
    """Save this host as JSON; ``-`` is stdout.  ``vbt`` is where to save its display's Video BIOS Table."""
    from xlplug.dom0 import snapshot
    from xlplug.dom0.recording import dump_host

    with readable_xen() as (xen, store):
        host = snapshot.take(xen, store)
    if vbt is not None:
        _save_vbt(host, vbt)
        if path == "-":
            return EXIT_DONE
    text = dump_host(host)
    if path == "-":
        streams.write(text)
        for note in host.notes:
            streams.complain(f"note: not recorded: {note}")
        return EXIT_DONE
    write_whole(path, text.encode())
    say(f"recorded host {host.name}: {len(host.devices)} PCI functions, {len(host.memory)} memory regions")
    for note in host.notes:
        say(f"  not recorded: {note}")
    return EXIT_DONE


def _save_vbt(host: HostSnapshot, path: str) -> None:
    from xlplug.dom0.firmware import read_vbt

    data = read_vbt(host)
    write_whole(path, data)
    say(f"saved the VBT in {path}, {len(data)} bytes; put it into the guest's /lib/firmware, and boot the guest with")
    say(f"  i915.vbt_firmware={os.path.basename(path)}")


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
        raise HostError(
            f"{folder}: {error.strerror}", hint="give a folder that can be written", code="XLP820"
        ) from error
    say(f"recorded domain {domid} ({recording.name}) in {folder}")
    return EXIT_DONE
