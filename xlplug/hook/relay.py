# SPDX-License-Identifier: LGPL-2.1-only
"""A saved domain that arrives through a pipe: a process of ours reads its head, and may change it, on the way to xl.

This cannot be done before xl runs, because the sender waits for xl's greeting.  So xl gets our pipe to read from, and a
process of ours writes into it: first the head, then the rest as it comes.
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

_AT_ONCE = 1 << 20  # bytes; the default of /proc/sys/fs/pipe-max-size


def relay(source: int, alter: Callable[[bytes], bytes | None], *needed: int) -> int:
    """A descriptor to read in place of ``source``; the data goes through ``alter`` on its way.

    ``alter`` runs in a process of its own.  It is given everything that precedes libxl's stream, or less if the sender stops
    earlier, and returns what xl shall read instead; with None, xl reads end of file at once.  ``needed`` are the descriptors
    that ``alter`` uses.  The process closes all others, because somebody may be waiting for them to be closed.

    Raises:
        HostError: a process or a pipe cannot be made.
    """
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
    except OSError as error:
        raise HostError(
            f"the domain cannot be received: {error.strerror}",
            hint="free some memory in dom0, see 'ulimit -a'",
            code="XLP613",
        ) from error
    if pid == 0:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches xl as well, which reports it
        try:
            # Fork twice.  The caller is about to become xl, and libxl warns of any child that ends and that it has not
            # started (libxl_fork.c, "unknown child").  So the relay is a grandchild: its parent ends at once, init inherits
            # it, and xl's waitpid never returns it.
            if os.fork() == 0:
                _close_all_but(0, 1, 2, source, writing, *needed)
                _pass_on(source, writing, alter)
        except BaseException:  # noqa: BLE001 - it is printed, and the caller's own handlers must not run in this process
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
            with suppress(OSError):  # the listing's own descriptor is closed already
                os.close(fd)


def _pass_on(source: int, to: int, alter: Callable[[bytes], bytes | None]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in {0, 1} - {source}:  # standard output leads back to the sender, and only xl may write there
        os.dup2(null, fd)
    head = _read(source, to, HEADER_SIZE)
    head += _read(source, to, optional_length(head))
    altered = alter(head)
    os.dup2(null, 2)  # ssh ends only when nobody has its stderr open
    if altered is None:
        return
    with suppress(OSError):  # a small pipe works as well, only slower
        fcntl.fcntl(to, fcntl.F_SETPIPE_SZ, _AT_ONCE)
    with suppress(OSError):  # xl or the sender is gone; the other one will notice
        left = memoryview(altered)
        while left:
            left = left[os.write(to, left) :]
        _copy(source, to)


def _ready(source: int, to: int) -> bool:
    """Wait until ``source`` can be read or has ended; False if xl is gone, which the sender may not notice by itself."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(to, 0)
    return to not in dict(poll.poll())


def _read(source: int, to: int, length: int) -> bytes:
    """Exactly ``length`` bytes, or fewer at the end of the data."""
    data = bytearray()
    while len(data) < length and _ready(source, to):
        with suppress(BlockingIOError):
            more = os.read(source, length - len(data))
            if not more:
                break
            data += more
    return bytes(data)


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
            splice = False  # not every kind of file supports it
