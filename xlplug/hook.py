# SPDX-License-Identifier: LGPL-2.1-only
"""The device model wrapper: grants, then becomes the device model.  hooks/device-model is its executable.

libxl starts it for a guest (``-xen-domid`` is the guest) and, for a guest with a stubdomain, to serve the stubdomain's
consoles (``-xen-domid`` is the stubdomain, which is still paused and whose target is in xenstore).  It exits non-zero
when the grants cannot be made; libxl then tears the domain down.
"""

import os
import signal
import sys
from typing import NoReturn

from xlplug import handover
from xlplug.addr import Domid
from xlplug.devmodel import default_path, domid_of, executable, is_ours, passes_igd
from xlplug.errors import EXIT_FAILED, ConfigError, Refused, XlplugError
from xlplug.sources import Found, being_created, from_handover

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.domcfg import DomainConfig
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

__all__ = ["main", "one_line"]


def main(argv: list[str]) -> NoReturn:
    """Run as the wrapper, with the command line of the device model."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        program = _prepare(argv[1:])
    except XlplugError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted; nothing was changed")
        sys.exit(EXIT_FAILED)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores the last two, and what is ignored survives exec
    try:
        os.execv(program, [program, *argv[1:]])  # noqa: S606 - the device model itself, no shell
    except OSError as error:
        _complain(f"{program}: {error.strerror}; reinstall the device model")
        sys.exit(EXIT_FAILED)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _prepare(arguments: list[str]) -> str:
    """Grant whatever the domain needs; the device model to become."""
    offered = handover.take(os.environ)
    config = None if offered is None else from_handover(offered)
    program = offered.device_model if offered is not None else ""
    if not program or is_ours(program):
        from xlplug.xen.lib import running_version

        program = default_path(running_version()[:2])
    executable(program)
    domid = domid_of(arguments)
    if domid is None or (config is not None and not config.wants_legacy):
        return program
    from xlplug import live
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    with XenCtrl() as xen, XenStore() as store, live.locked():
        target, stubdom = live.target_and_stubdom(domid, store)
        if config is None:
            igd = passes_igd(arguments if stubdom is None else live.device_model_arguments(target, store))
            config = _look_up(target, xen, store, igd=igd).config
        _grant(config, target, stubdom, xen, store)
    return program


def _look_up(target: Domid, xen: "XenCtrl", store: "XenStore", *, igd: bool) -> Found:
    info = xen.domain_info(target)
    if info is None:
        raise Refused((f"domain {target} does not exist; see 'xl list'",))
    name = store.read(f"/local/domain/{target}/name") or ""
    found = being_created(name, info.uuid, igd=igd)
    if found is None:
        raise ConfigError(
            "no configuration was handed over, and neither libvirt nor a running 'xl create' has one",
            path=f"domain {target} ({name})",
            hint="start it with 'xl create' through the xlplug front end (see 'xlplug hook status')",
        )
    return found


def _grant(config: "DomainConfig", target: Domid, stubdom: Domid | None, xen: "XenCtrl", store: "XenStore") -> None:
    from xlplug import live, session
    from xlplug.plan import build

    host = live.snapshot(xen, store, config)
    made = build(config, host, target, stubdom, granting=True, attach_later=True)
    for text in made.warnings:
        sys.stderr.write(f"xlplug: warning: {text}\n")
    session.grant(made, xen, store, _log)
    sys.stderr.flush()


def _log(line: str) -> None:
    sys.stderr.write(f"xlplug: {line}\n")


def one_line(text: str) -> str:
    """The text as a single line that any stream takes."""
    return f"xlplug: {' '.join(text.split())}\n".encode("utf-8", "backslashreplace").decode("utf-8")


def _complain(text: str) -> None:
    """To our log, and to where xl's user looks: our parent is a fork of xl (libxl_exec.c), with xl's own stderr."""
    line = one_line(text)
    sys.stderr.write(line)
    sys.stderr.flush()
    parent = f"/proc/{os.getppid()}/fd/2"
    try:
        if os.path.samefile(parent, "/proc/self/fd/2"):
            return
        fd = os.open(parent, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # a socket, or nobody there: libvirt's log has "see the device model's log"
    try:
        os.write(fd, line.encode())
    except OSError:
        pass
    finally:
        os.close(fd)
