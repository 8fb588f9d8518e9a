# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug dm``: be the device model of PCI functions of a running guest."""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, NoReturn

from xlplug.commands.common import find_domain, parse_domain, say
from xlplug.config.delegated import Spec, parse_spec
from xlplug.delegate import record
from xlplug.delegate.admit import admit, guest
from xlplug.delegate.host_command import HostCommand
from xlplug.delegate.process import Job
from xlplug.delegate.record import DelegateProcess, RecordedDevice
from xlplug.delegate.state import FOLDER, State, path_of
from xlplug.delegate.supervisor import Supervisor
from xlplug.dom0 import domains, pci
from xlplug.dom0.os_release import distribution
from xlplug.model.addr import Domid
from xlplug.model.errors import ConfigError, HostError, Refused, StoreError, XlplugError
from xlplug.model.problem import Problem
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.store import XenStore

__all__ = ["DmOptions", "dm", "hooked"]

#: How long a delegate of a guest that is going away is waited for: it looks once a second.
_LOCK_SECONDS = 10


class DmOptions(NamedTuple):
    """``xlplug dm``'s options."""

    domain: str
    devices: tuple[str, ...]
    vslot: str | None = None


def dm(options: DmOptions) -> int:
    """Serve functions to a guest until a signal says stop, or until the guest is gone."""
    domain = parse_domain(options.domain)
    if options.vslot is not None and len(options.devices) > 1:
        raise ConfigError(
            "--vslot is for one device", path="xlplug dm", hint="write BDF,vslot=NN for each", code="XLP230"
        )
    specs = tuple(parse_spec(text, vslot=options.vslot) for text in options.devices)
    with ExitStack() as stack:
        job, uuid, dm_domain = _prepare(domain, specs, stack)
        supervisor = Supervisor(job)
        supervisor.start()
        _note(job, uuid, dm_domain)
        for placement in job.placements:
            bars = ", ".join(f"BAR {bar.number} {bar}" for bar in placement.bars) or "no BARs"
            say(f"{placement.host} at {placement.guest} of domain {job.domid}: {bars}")
        say("ready")
        return supervisor.watch()


def hooked(domid: str, *devices: str) -> NoReturn:
    """`dm` for the device model wrapper, which reads stdout until it is "ready" or why it is not.

    In a child, so that the wrapper, which becomes QEMU, has no child of ours.
    """
    if os.fork():
        os._exit(0)
    try:
        code = dm(DmOptions(domid, devices))
    except XlplugError as error:
        say(str(error))
        code = error.exit_code
    sys.exit(code)


def _prepare(domain: Domid | str, specs: tuple[Spec, ...], stack: ExitStack) -> tuple[Job, str, int]:
    """Everything that can be refused, and the devices made ready; ``stack`` undoes it.  No handle is open afterwards."""
    with XenCtrl() as xen, XenStore() as store:
        domid = find_domain(domain, xen, store).domid
        info = guest(domid, xen)
        taken = Problem(f"domain {domid} has a delegate already", _running(domid), code="XLP711")
        locks = [stack.enter_context(_sole(f"dm-{domid}", taken, 0))]
        devices, _ = pci.functions(tuple((spec.host, False) for spec in specs), pci.owners(store))
        placements = admit(domid, specs, devices, xen, distribution())
        dm_domain = domains.stubdom_of(domid, store) or 0
    for spec in specs:
        taken = Problem(
            f"{spec.host} is delegated already", f"see 'fuser {FOLDER}/{spec.host}.lock' for the process", code="XLP712"
        )
        locks.append(stack.enter_context(_sole(str(spec.host), taken, _LOCK_SECONDS)))
    for spec in specs:
        stack.callback(HostCommand(pci.SYS_PCI, spec.host).restore)
    state, fd = State.create(path_of(domid), len(placements))
    os.close(fd)
    stack.callback(_forget, domid, path_of(domid))
    name = f"delegate of domain {domid}"
    return Job(domid, placements, state, pci.SYS_PCI, name, tuple(locks)), info.uuid, dm_domain


def _running(domid: int) -> str:
    """How to get rid of a delegate."""
    with contextlib.suppress(HostError):
        state = State.read(path_of(domid))
        if state is not None:
            return f"stop it (kill -TERM {state.pid}) and start one for all of the guest's devices"
    return "stop it and start one for all of the guest's devices"


@contextmanager
def _sole(name: str, taken: Problem, seconds: float) -> Iterator[int]:
    """One delegate for a guest, and for a function: a lock, which goes when nobody has it open, however they ended."""
    path = f"{FOLDER}/{name}.lock"
    try:
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(
            f"{path}: {error.strerror}", hint="is /run writable, and is this root?", code="XLP821"
        ) from error
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Refused(taken) from None
                time.sleep(0.1)
        yield fd
    finally:
        os.close(fd)


def _note(job: Job, uuid: str, dm_domain: int) -> None:
    """Write the record, with no handle left open."""
    devices = tuple(RecordedDevice(p.host, p.bars, p.guest) for p in job.placements)
    own = os.getpid()
    process = DelegateProcess(job.state.server or 0, own, record.process_started(own) or 0, path_of(job.domid))
    with XenStore() as store:
        record.write_delegate(store, job.domid, uuid, dm_domain, devices, process)


def _forget(domid: int, state: str) -> None:
    """The end: what is written down about this delegate goes.  libxl may have removed the record with the domain."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(state)
    with contextlib.suppress(StoreError), XenStore() as store:
        record.forget_delegate(store, domid)
