# SPDX-License-Identifier: LGPL-2.1-only
"""A saved domain that arrives through a pipe: its head is looked at, and changed, on its way to xl.

xl must be running by then: it greets the sender, who sends nothing before.  So xl gets a pipe of ours to read, and a process
of ours passes everything on, first the head.
"""

import errno
import fcntl
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from xlplug.dom0.savefile import HEADER_SIZE, optional_length
from xlplug.model.errors import HostError

__all__ = ["relay"]

_AT_ONCE = 1 << 20  # bytes; also /proc/sys/fs/pipe-max-size, as Linux has it by default


def relay(source: int, alter: Callable[[bytes], bytes | None], *needed: int) -> int:
    """A descriptor from which everything can be read that is read from ``source``.

    ``alter`` is called in a process of its own, with all that stands before libxl's stream, or with whatever came before the
    end; it returns what xl is to read instead.  None: xl reads the end at once.  ``needed`` are the descriptors that it has;
    all others are closed, as somebody may wait for their end.

    Raises:
        HostError: no process or no pipe can be made.
    """
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
    except OSError as error:
        raise HostError(
            f"the domain cannot be received: {error.strerror}", hint="free some memory in dom0, see 'ulimit -a'"
        ) from error
    if pid == 0:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for xl, too, and needs no words of ours
        try:
            if os.fork() == 0:  # nobody's child, so that xl sees none that it does not know
                _close_all_but(0, 1, 2, source, writing, *needed)
                _pass_on(source, writing, alter)
        except BaseException:  # noqa: BLE001 - shown; and none of the caller's code may run here
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    return reading


def _close_all_but(*kept: int) -> None:
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd not in kept:
            with suppress(OSError):  # that of the listing itself
                os.close(fd)


def _pass_on(source: int, to: int, alter: Callable[[bytes], bytes | None]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in {0, 1} - {source}:  # standard output is the way back to the sender, and xl's alone
        os.dup2(null, fd)
    head = _read(source, to, HEADER_SIZE)
    head += _read(source, to, optional_length(head))
    altered = alter(head)
    os.dup2(null, 2)  # ssh waits for all who could still write
    if altered is None:
        return
    with suppress(OSError):  # else it is only slower
        fcntl.fcntl(to, fcntl.F_SETPIPE_SZ, _AT_ONCE)
    with suppress(OSError):  # xl is gone, or the sender: each notices that by itself
        left = memoryview(altered)
        while left:
            left = left[os.write(to, left) :]
        _copy(source, to)


def _ready(source: int, to: int) -> bool:
    """Wait for something to read, or the end; False when nobody would read it: xl is gone, and the sender may not know."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(to, 0)
    return to not in dict(poll.poll())


def _read(source: int, to: int, length: int) -> bytes:
    """So many bytes, fewer only at the end."""
    data = b""
    while len(data) < length and _ready(source, to):
        with suppress(BlockingIOError):
            more = os.read(source, length - len(data))
            if not more:
                break
            data += more
    return data


def _copy(source: int, to: int) -> None:
    splice = True
    while _ready(source, to):
        try:
            if splice:
                if not os.splice(source, to, _AT_ONCE):
                    return
            else:
                data = os.read(source, 1 << 16)
                if not data:
                    return
                os.write(to, data)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno != errno.EINVAL or not splice:
                raise
            splice = False  # not every file can
