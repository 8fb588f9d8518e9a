# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug watch``: waits for events from xenstore and libudev, and has the `Watcher` look at each.

It reports readiness to systemd (sd_notify(3)), and puts a priority before each line if stderr is the journal (sd-daemon(3)).
"""

import os
import select
import signal
import socket

from xlplug.config.domain import DomainConfig, passes_igd
from xlplug.dom0 import domains, lock, nodes, snapshot, streams
from xlplug.dom0.find_config import Found, being_created
from xlplug.dom0.udev import Monitor
from xlplug.hook import delegate
from xlplug.model.errors import EXIT_DONE, XlplugError, printable
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo
from xlplug.watch.delegates import Delegates
from xlplug.watch.guard import Guard, GuardLostError, recover
from xlplug.watch.guests import ERROR, INFO, WARNING, Watcher, World
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.store import XenStore

__all__ = ["watch"]


def watch(*, map_legacy: bool) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP.

    Raises:
        XlplugError: as `_serve`, unless stderr is the journal, which gets its line as an error.
    """
    try:
        return _serve(map_legacy=map_legacy)
    except XlplugError as error:
        if not _IN_JOURNAL:
            raise
        _log(ERROR, printable(" ".join(str(error).split())))
        return error.exit_code


def _serve(*, map_legacy: bool) -> int:
    """The same.

    Raises:
        XenUnavailableError, StoreError: Xen or xenstored cannot be reached, or can no longer be reached.
        GuardLostError: the process that pauses domains was killed.
    """
    asked_to_stop = _signals()
    with lock.only_watcher(), Guard() as guard, XenCtrl() as xen, XenStore() as store:
        for line in recover(xen, store):
            _log(WARNING, line)
        monitor = Monitor()
        world = _world(xen, store, guard)
        watcher = Watcher(world, map_legacy=map_legacy)
        poll = select.poll()
        delegates = Delegates(world, lambda fd: poll.register(fd, select.POLLIN), poll.unregister)
        for path in ("@introduceDomain", "@releaseDomain", nodes.PCI_BACKEND):
            store.watch(path)
        watcher.look()
        delegates.look(watcher.present, ())
        _notify("READY=1")
        _log(INFO, "watching for domains")
        ours = (store.fileno(), monitor.fileno(), asked_to_stop)
        for fd in ours:
            poll.register(fd, select.POLLIN)
        try:
            while True:
                wait = watcher.wait()
                ready = {fd for fd, _ in poll.poll(None if wait is None else wait * 1000)}
                if asked_to_stop in ready:
                    break
                paths = store.changes()
                changed = {domid for path in paths if (domid := _owner(path)) is not None}
                host_changed = monitor.fileno() in ready and bool(monitor.drain())
                watcher.look(changed, host_changed=host_changed)
                for fd in ready.difference(ours):
                    delegates.ready(fd)
                delegates.look(watcher.present, paths)
        except GuardLostError:
            for line in recover(xen, store):
                _log(WARNING, line)
            raise
        finally:
            _notify("STOPPING=1")
    return EXIT_DONE


def _world(xen: XenCtrl, store: XenStore, guard: Guard) -> World:
    """What the watcher uses, on this machine."""

    def building(info: DomainInfo, name: str) -> Found | None:
        return being_created(name, info.uuid, igd=passes_igd(domains.device_model_arguments(info.domid, store)))

    def record(info: DomainInfo) -> DomainConfig | None:
        return None if domains.libxl_json(info) is None else domains.domain_config(info)

    def host_now(config: DomainConfig) -> HostSnapshot:
        return snapshot.take(xen, store, config)

    return World(
        xen, store, guard, store.watch, store.unwatch, building, record, host_now, lock.locked, _log, delegate.start
    )


def _signals() -> int:
    """A descriptor that a signal makes readable, so that no signal interrupts a grant.  One that is ignored (nohup) stays so."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(write_end)
    return read_end


def _owner(path: str) -> int | None:
    """The guest whose PCI backend node contains the path that has changed."""
    if not path.startswith(f"{nodes.PCI_BACKEND}/"):
        return None
    number = path[len(nodes.PCI_BACKEND) + 1 :].partition("/")[0]
    return int(number) if number.isdecimal() else None


def _log(priority: int, text: str) -> None:
    """A line that is safe for a terminal: names in it may hold anything."""
    if not _IN_JOURNAL:
        streams.complain(text)
        return
    streams.to_stderr(f"<{priority}>{printable(' '.join(text.split()))}\n")


def _in_journal() -> bool:
    """Whether stderr is the journal: systemd puts the device and inode of its stream into the environment."""
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


_IN_JOURNAL = _in_journal()


def _notify(state: str) -> None:
    """Report to the service manager, if there is one.  Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            _log(WARNING, f"systemd cannot be notified: {error.strerror}")
