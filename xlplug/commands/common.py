# SPDX-License-Identifier: LGPL-2.1-only
"""What each command does, with its options as values: no click here, so that the hot ones start without it.

A command prints its results to stdout, returns its exit code, and raises `XlplugError` for anything to be said as one
line.  Modules that only some commands need are imported where they are used.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from xlplug.dom0.files import read_all
from xlplug.model.addr import Domid
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, ConfigError, HostError, XlplugError, one_line

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.model.hypervisor import Store
    from xlplug.xen.ctrl import XenCtrl

__all__ = [
    "run",
]


def run(command: "object", *args: object) -> int:
    """Call a command; an error becomes its one line on stderr and its exit code."""
    try:
        code = command(*args)  # type: ignore[operator]
        sys.stdout.flush()
    except XlplugError as error:
        complain(str(error))
        _count(command, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted; nothing was changed")
        return EXIT_REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_DONE
    _count(command, int(code))
    return int(code)


def _count(command: "object", status: int) -> None:
    """For ``xlplug metrics``.  A domain that is created is counted by the wrapper: this process has become xl."""
    name = getattr(command, "__name__", "")
    if name in ("create", "restore", "receive", "grant"):
        from xlplug.dom0 import tally

        tally.add(name, status)


def complain(text: str) -> None:
    sys.stderr.write(one_line(text))


def say(line: str) -> None:
    """A line of progress; a reader that went away must not stop what is half done."""
    try:
        sys.stdout.write(f"{line}\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def read_config(path: str) -> bytes:
    try:
        if path == "-":
            return read_all(sys.stdin.buffer, path)
        with open(path, "rb") as file:
            return read_all(file, path)
    except OSError as error:
        raise ConfigError(
            error.strerror or "cannot be read", path=path, hint="give the path of an xl config"
        ) from error


def parse_domid(text: str | None, option: str) -> Domid | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise HostError(f"{option} '{text}' is no domid", hint="give a number from 'xl list'")
    return Domid(int(text))


# plan and config ------------------------------------------------------------------------------------------------------


@contextmanager
def readable_xen() -> Iterator["tuple[XenCtrl | None, Store | None]"]:
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


# grant, revoke, show --------------------------------------------------------------------------------------------------


def interruptible() -> None:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: with everything undone."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


# record ---------------------------------------------------------------------------------------------------------------
