# SPDX-License-Identifier: LGPL-2.1-only
"""The device model wrapper: grants, then becomes the device model.  hooks/device-model is its executable.

libxl starts it for a guest (``-xen-domid`` is the guest) and, for a guest with a stubdomain, to serve the stubdomain's
consoles (``-xen-domid`` is the stubdomain, which is still paused and whose target is in xenstore).  It exits non-zero
when the grants cannot be made, and libxl then destroys the domain.
"""

import _signal as signal  # type: ignore[import-not-found] # see become.py
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from xlplug.config.domain import passes_igd
from xlplug.dom0 import handover, nodes, streams, tally
from xlplug.dom0.find_config import Found, being_created, from_handover
from xlplug.hook.become import become
from xlplug.hook.device_model import domid_of, preload_library, real, restores
from xlplug.model.addr import Domid
from xlplug.model.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    ApplyError,
    ConfigError,
    HostError,
    Refused,
    XlplugError,
    one_line,
)
from xlplug.model.occasion import NO_LIBRARY, RESTORING, RUNNING, STARTING, Occasion, Who
from xlplug.model.problem import Problem

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.config.domain import DomainConfig
    from xlplug.plan import Plan
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

__all__ = ["main"]

_BEGAN = time.monotonic()
_INTERRUPTS: list[int] = []  # the signals that have come; libxl sends SIGHUP to a device model that is to end
_INCOMING = "--incoming"  # after the name while the domain arrives.  Source: tools/xl/xl_vmcontrol.c, create_domain


def main(argv: list[str]) -> NoReturn:
    """Run as the wrapper, with the command line of the device model."""
    streams.prepare()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # an ignored signal stays ignored, here and in the device model
            signal.signal(number, _interrupt)
    try:
        program, library = _prepare(argv[1:], argv[0])
        _end_if_interrupted()
        changes: dict[str, str | None] = {handover.VARIABLE: None}
        if library is not None:
            changes["LD_PRELOAD"] = f"{os.environ['LD_PRELOAD']}:{library}" if os.environ.get("LD_PRELOAD") else library
        try:
            become(program, [program, *argv[1:]], changes)
        except OSError as error:
            _complain(str(Problem(f"{program}: {error.strerror}", "reinstall the device model", code="XLP612")))
    except XlplugError as error:
        _complain(str(error))
        tally.add("wrapper", error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted; the grants disappear with the domain")
    sys.exit(EXIT_FAILED)


def _interrupt(number: int, frame: object) -> NoReturn:
    _INTERRUPTS.append(number)
    raise KeyboardInterrupt


def _end_if_interrupted() -> None:
    """A signal at the very end of a grant does not undo it (`signals.Waiting`), but it is not lost either."""
    if _INTERRUPTS:
        raise KeyboardInterrupt


def _prepare(arguments: list[str], wrapper: str) -> tuple[str, str | None]:
    """Grant what the domain needs; return the device model to become, and the library to preload into it, if any."""
    offered = handover.take(os.environ)
    config = None if offered is None else from_handover(offered)
    program = real("" if offered is None else offered.device_model)
    domid = domid_of(arguments)
    if domid is None or (config is not None and not config.wants_legacy):
        return program, None
    from xlplug.dom0 import lock
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    def same_xl() -> bool:
        return offered is not None and _by_this_xl(offered)

    with XenCtrl() as xen, XenStore() as store, lock.locked():
        return program, _serve(Domid(domid), arguments, wrapper, config, xen, store, same_xl)


def _by_this_xl(offered: handover.Handover) -> bool:
    """Whether this handover was made for the xl that started us: our parent is a fork of that xl (libxl_exec.c)."""
    from xlplug.dom0 import running_xl

    return running_xl.creates(os.getppid(), offered.path, offered.extra)


def _serve(
    domid: Domid, arguments: list[str], wrapper: str, config: "DomainConfig | None", xen: "XenCtrl", store: "XenStore",
    same_xl: Callable[[], bool] = lambda: False,
) -> str | None:  # fmt: skip
    """Grant to the domain that the device model serves; return the library to preload.

    ``config`` is what was handed over.  ``same_xl`` finds out whether it was handed to the very xl that creates this domain.
    """
    from xlplug.dom0 import domains

    target, stubdom = domains.target_and_stubdom(domid, store)
    name = store.read(nodes.name(target)) or ""
    if stubdom is not None:
        arguments = domains.device_model_arguments(target, store)
    if config is None:
        config = _look_up(target, name, xen, igd=passes_igd(arguments)).config
    elif config.name not in _names(name, arguments) and not same_xl():
        # The name alone proves nothing either way.  A domain may have been renamed, and still be the one.  And a script that
        # xl runs for one domain may create another, which then inherits the first one's handover.
        raise ConfigError(
            f"the config passed on is for domain '{config.name}'",
            path=f"domain {target} ({name})",
            hint="start it with 'xl create' through the xlplug front end (see 'xlplug hook status')",
            code="XLP212",
        )
    library = preload_library(wrapper) if config.preload and stubdom is None else None
    if config.wants_legacy:
        who = Who(target, stubdom)
        made = _grant(config, who, _occasion(arguments, stubdom, library, xen), xen, store)
        try:
            _go_on(config, made, who, xen, store)
        except XlplugError as error:  # Xen has been changed, and is as before when libxl has destroyed the domain
            raise ApplyError(error.problem.what, hint=error.hint, code=error.code) from error
        tally.add("wrapper", EXIT_DONE, time.monotonic() - _BEGAN)
    return library


def _go_on(config: "DomainConfig", made: "Plan", who: Who, xen: "XenCtrl", store: "XenStore") -> None:
    """What is left to do for the device model when everything is granted."""
    if made.devices:
        from xlplug.delegate import record

        info = xen.domain_info(who.target or 0)
        record.note_device_model(store, who, info.uuid if info else "", (assigned.device for assigned in made.devices))
    if config.delegate:
        from xlplug.hook import delegate

        delegate.start(who.target or 0, config.delegate)
    if who.stubdom is None and made.devices:
        _show_display(config, made)


def _show_display(config: "DomainConfig", made: "Plan") -> None:
    """Give QEMU, which this process becomes, a view of the Intel display that it can handle.

    A host without a VBIOS is left to QEMU here: `create` has refused it already, and a patched QEMU may need none.
    """
    from xlplug.igd import IGD

    devices = [assigned.device for assigned in made.devices if assigned.device.bdf == IGD]
    if not devices:
        return
    from xlplug.hook.device_view import enter, view_of

    try:
        view = view_of(config, devices)
    except HostError as error:
        streams.complain(f"warning: {error}")
        view = view_of(config._replace(rom=False), devices)
    if view is not None:
        enter(view)
        for line in view.lines():
            streams.complain(line)


def _names(name: str, arguments: list[str]) -> tuple[str, ...]:
    """The names that the configuration may have for a domain that is now called ``name``."""
    return (name, name.removesuffix(_INCOMING)) if restores(arguments) else (name,)


def _occasion(arguments: list[str], stubdom: Domid | None, library: str | None, xen: "XenCtrl") -> Occasion:
    """`STARTING`, and whether guest RAM can be populated: the device model is about to start, in us or in a stubdomain."""
    if restores(arguments):
        return STARTING.without_ram(RESTORING)
    if stubdom is None:
        return STARTING.without_ram(NO_LIBRARY if library is None else None)
    info = xen.domain_info(stubdom)
    return STARTING.without_ram(RUNNING if info is not None and info.cpu_time else None)


def _look_up(target: Domid, name: str, xen: "XenCtrl", *, igd: bool) -> Found:
    info = xen.domain_info(target)
    if info is None:
        raise Refused(Problem(f"domain {target} does not exist", "see 'xl list'", code="XLP112"))
    found = being_created(name, info.uuid, igd=igd)
    if found is None:
        raise ConfigError(
            "no configuration was passed on, and neither libvirt nor a running 'xl create' has one",
            path=f"domain {target} ({name})",
            hint="start it with 'xl create' through the xlplug front end (see 'xlplug hook status'), or after 'virsh define'",
            code="XLP213",
        )
    return found


def _grant(config: "DomainConfig", who: Who, occasion: Occasion, xen: "XenCtrl", store: "XenStore") -> "Plan":
    from xlplug.dom0 import snapshot
    from xlplug.execute import grants
    from xlplug.plan import build

    host = snapshot.take(xen, store, config, stubdom=who.stubdom is not None)
    made = build(config, host, who, occasion)
    for text in made.warnings:
        streams.complain(f"warning: {text}")
    grants.grant(made, xen, store, streams.complain)
    return made


def _complain(text: str) -> None:
    """Write the line to our log, and to the stderr of xl, where its user looks.

    Our parent is a fork of xl (libxl_exec.c) and has that stderr.
    """
    import select

    streams.complain(text)
    try:
        fd = _stderr_of(os.getppid())
    except OSError:
        return  # the parent is gone; libxl's own message names the device model's log
    try:
        # The open file is shared with xl, so we must not make it non-blocking; and a reader that has stopped must not stop us.
        if not os.path.sameopenfile(fd, 2) and select.select([], [fd], [], 1)[1]:
            os.write(fd, one_line(text).encode())
    except OSError:
        pass
    finally:
        os.close(fd)


def _stderr_of(pid: int) -> int:
    """That process's stderr, shared with it if possible: in a file, what it writes next then follows our line."""
    try:
        return borrowed(pid, 2)
    except OSError:
        return os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)


_SYS_PIDFD_GETFD = 438  # Linux 5.6 and later, the same for every architecture


def borrowed(pid: int, number: int) -> int:
    """A duplicate of another process's descriptor, which shares its file offset.  Exec closes it.

    Raises:
        OSError: the process has no such descriptor, or we may not have it, or Linux is older than 5.6.
    """
    from xlplug.xen.lib import ffi, libc

    pidfd = os.pidfd_open(pid)
    try:
        arguments = (ffi.cast("int", pidfd), ffi.cast("int", number), ffi.cast("unsigned int", 0))
        fd = libc().syscall(_SYS_PIDFD_GETFD, *arguments)
        if fd < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
    finally:
        os.close(pidfd)
    return fd
