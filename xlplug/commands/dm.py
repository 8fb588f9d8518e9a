# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug dm``: be the device model of PCI functions of a running guest, or take over from one that has died."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple, NoReturn

from xlplug.commands.common import find_domain, parse_domain, say
from xlplug.config.delegated import Spec, parse_spec
from xlplug.delegate import record
from xlplug.delegate.admit import admit, guest
from xlplug.delegate.host_command import HostCommand
from xlplug.delegate.lifetime import forget, has_open, lock_path, note, sole, take_leave
from xlplug.delegate.process import LIBRARIES, Job, Placement
from xlplug.delegate.record import RecordedDevice
from xlplug.delegate.state import State, path_of
from xlplug.delegate.supervisor import Supervisor
from xlplug.dom0 import domains, pci, streams
from xlplug.dom0.os_release import distribution
from xlplug.model.addr import Domid
from xlplug.model.bar import bars_of
from xlplug.model.bdf import Bdf
from xlplug.model.errors import EXIT_USAGE, ApplyError, ConfigError, HostError, Refused, UsageError, XlplugError
from xlplug.model.host import PCIBACK_DRIVERS
from xlplug.model.problem import Problem
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.lib import load_stable
from xlplug.xen.store import XenStore

__all__ = ["DmOptions", "dm", "hooked"]

#: How long a delegate of a guest that is going away is waited for: it looks once a second.
_LOCK_SECONDS = 10
_HEADER = 64  # of the config space, in bytes


class DmOptions(NamedTuple):
    """``xlplug dm``'s options."""

    domain: str
    devices: tuple[str, ...]
    vslot: str | None = None
    adopt: bool = False


def dm(options: DmOptions) -> int:
    """Serve functions to a guest until a signal says stop, or until the guest is gone."""
    domain = parse_domain(options.domain)
    specs = _specs(options)
    for name in LIBRARIES:  # before anything is touched
        load_stable(name)
    with ExitStack() as stack:
        job, uuid, dm_domain = _adopt(domain, stack) if options.adopt else _prepare(domain, specs, stack)
        supervisor = Supervisor(job)
        supervisor.start(adopt=options.adopt)
        if options.adopt:  # until now somebody else could have taken over as well
            stack.callback(forget, job)
        stack.callback(supervisor.stop)  # a process without a record could not be found again
        try:
            note(job, uuid, dm_domain)
        except XlplugError as error:
            if not options.adopt:
                raise ApplyError(error.message, hint=error.hint, code=error.code) from error
            streams.complain(
                f"warning: nobody can take over from this process, because its record is not written: {error}"
            )
        for placement in job.placements:
            bars = ", ".join(f"BAR {bar.number} {bar}" for bar in placement.bars) or "no BARs"
            say(f"{placement.host} at {placement.guest} of domain {job.domid}: {bars}")
        say("ready")
        return supervisor.watch()


def _specs(options: DmOptions) -> tuple[Spec, ...]:
    """What the command line names.

    Raises:
        UsageError: they do not fit together.
        ConfigError: one cannot be read; its exit code is a UsageError's.
    """
    if options.adopt and (options.devices or options.vslot is not None):
        raise UsageError("--adopt takes over what the record names", hint="leave the devices out", code="XLP230")
    if not options.adopt and not options.devices:
        raise UsageError("no device is named", hint="give BDF[,vslot=NN], for example 0000:03:00.0", code="XLP230")
    if options.vslot is not None and len(options.devices) > 1:
        raise UsageError("--vslot is for one device", hint="write BDF,vslot=NN for each", code="XLP230")
    try:
        return tuple(parse_spec(text, vslot=options.vslot) for text in options.devices)
    except ConfigError as error:
        error.path, error.exit_code = "dm", EXIT_USAGE
        raise


@contextlib.contextmanager
def _on_the_command_line() -> Iterator[None]:
    """What is wrong there is not in a config."""
    try:
        yield
    except ConfigError as error:
        error.path = "dm"
        raise


def hooked(domid: str, *devices: str) -> NoReturn:
    """`dm` for the device model wrapper and the daemon, which read stdout until it is "ready" or why it is not.

    In a child, so that the wrapper, which becomes QEMU, has no child of ours.
    """
    if os.fork():
        os._exit(0)
    try:
        code = dm(DmOptions(domid, devices, adopt=not devices))
    except XlplugError as error:
        streams.put(f"{error.problem.packed()}\n")
        code = error.exit_code
    sys.exit(code)


def _prepare(domain: Domid | str, specs: tuple[Spec, ...], stack: ExitStack) -> tuple[Job, str, int]:
    """Everything that can be refused, and the devices made ready; ``stack`` undoes it.  No handle is open afterwards."""
    with XenCtrl() as xen, XenStore() as store:
        domid = find_domain(domain, xen, store).domid
        info = guest(domid, xen)
        taken = Problem(f"domain {domid} has a delegate already", _running(domid), code="XLP711")
        locks = [stack.enter_context(sole(f"dm-{domid}", taken, 0))]
        devices, _ = pci.functions(tuple((spec.host, False) for spec in specs), pci.owners(store))
        with _on_the_command_line():
            placements = admit(domid, specs, devices, xen, distribution())
        dm_domain = domains.stubdom_of(domid, store) or 0
    locks += _lock(placements, stack)
    _decode(placements, stack)
    state, fd = State.create(path_of(domid), len(placements))
    os.close(fd)
    job = _job(domid, placements, state, locks)
    stack.callback(forget, job)
    return job, info.uuid, dm_domain


def _adopt(domain: Domid | str, stack: ExitStack) -> tuple[Job, str, int]:
    """The same for a delegate that has no supervisor any more, whose process serves on, or is dead too."""
    with XenCtrl() as xen, XenStore() as store:
        domid = find_domain(domain, xen, store).domid
        info = guest(domid, xen)
        found = record.read(store, domid)
        owners = pci.owners(store)
    if found is None or found.uuid != info.uuid or found.process is None:
        raise Refused(Problem(f"domain {domid} has no delegate to take over", "start one: name its devices", "XLP717"))
    process = found.process
    if record.process_started(process.pid) == process.started:
        what = f"the delegate of domain {domid} is supervised, by process {process.pid}"
        raise Refused(Problem(what, "there is nothing to do", "XLP717"))
    state = State.read(process.state)
    if state is None or len(state.functions) != len(found.delegate):
        raise Refused(Problem(f"{process.state} is gone, so nobody can go on from it", "restart the guest", "XLP717"))
    placements = tuple(
        Placement(device.host, device.guest, bytes(kept.registers[:_HEADER]), device.bars)
        for device, kept in zip(found.delegate, state.functions, strict=True)
        if device.guest is not None
    )
    absent = _not_ours(found.delegate, owners)
    _decode(placements, stack, absent)
    taken = Problem(f"domain {domid} has a delegate already", _running(domid), code="XLP711")
    take_leave(state.pid, lock_path(f"dm-{domid}"))  # from now on a vCPU waits
    locks = [stack.enter_context(sole(f"dm-{domid}", taken, _LOCK_SECONDS)), *_lock(placements, stack, absent)]
    return _job(domid, placements, state, locks)._replace(absent=absent), info.uuid, found.dm


def _not_ours(devices: tuple[RecordedDevice, ...], owners: dict[Bdf, Domid]) -> frozenset[Bdf]:
    """The functions that are not as they were when they were delegated: gone, taken back, assigned, or another device's."""
    hosts = tuple((device.host, False) for device in devices)
    found = {device.bdf: device for device in pci.functions(hosts, owners, pci.SYS_PCI)[0]}
    absent = set()
    for recorded in devices:
        now = found.get(recorded.host)
        if now is None or now.owner is not None or now.driver not in PCIBACK_DRIVERS or bars_of(now) != recorded.bars:
            say(f"{recorded.host} is not delegated any more; the guest reads all ones")
            absent.add(recorded.host)
    return frozenset(absent)


def _lock(placements: tuple[Placement, ...], stack: ExitStack, absent: frozenset[Bdf] = frozenset()) -> list[int]:
    """Lock each function, but for those that are not there.

    Raises:
        Refused: a delegate has it.
    """
    locks = []
    for placement in placements:
        if placement.host in absent:
            continue
        path = lock_path(str(placement.host))
        taken = Problem(f"{placement.host} is delegated already", f"see 'fuser {path}' for the process", code="XLP712")
        locks.append(stack.enter_context(sole(str(placement.host), taken, _LOCK_SECONDS)))
    return locks


def _decode(placements: tuple[Placement, ...], stack: ExitStack, absent: frozenset[Bdf] = frozenset()) -> None:
    """Have each function decode on the host, but for those that are not there, or are not ours to touch."""
    for placement in placements:
        if placement.host not in absent:
            stack.callback(HostCommand(pci.SYS_PCI, placement.host).restore)


def _job(domid: Domid, placements: tuple[Placement, ...], state: State, locks: list[int]) -> Job:
    name = f"delegate of domain {domid}"
    return Job(domid, placements, state, pci.SYS_PCI, name, path_of(domid), tuple(locks))


def _running(domid: int) -> str:
    """How to get rid of a delegate."""
    with contextlib.suppress(HostError):
        state = State.read(path_of(domid))
        if state is not None and has_open(state.pid, lock_path(f"dm-{domid}")):
            return f"stop it (kill -TERM {state.pid}) and start one for all of the guest's devices"
    return "stop it and start one for all of the guest's devices"
