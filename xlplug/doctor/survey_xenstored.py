# SPDX-License-Identifier: LGPL-2.1-only
"""Asks whether xenstored answers, in a process of its own: without a daemon the request never returns."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from xlplug.doctor.reading import Broken, Reading, Unread, tried
from xlplug.dom0 import nodes
from xlplug.model.hypervisor import Store

_STORE_SECONDS = 5.0  # with no daemon behind it, /dev/xen/xenbus answers never


def xenstored_answer(door: Callable[[], AbstractContextManager[Store]]) -> Reading[str]:
    """What xenstored says of dom0.  A child asks, because the kernel's own way to a dead xenstored waits for ever."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            found = tried(_ask, door)
            kind = b"B" if isinstance(found, Broken) else b"U" if isinstance(found, Unread) else b"="
            parts = (found,) if isinstance(found, str) else found
            os.write(write_end, kind + "\0".join(parts).encode("utf-8", "surrogateescape"))
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        data = _read_until_closed(read_end, _STORE_SECONDS)
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not data:
        return Broken(
            f"xenstored does not answer within {_STORE_SECONDS:.0f} s",
            "start it (systemctl start xenstored); if it has run already since the boot, reboot",
        )
    kind, text = data[:1], data[1:].decode("utf-8", "surrogateescape")
    if kind == b"=":
        return text
    why, _, advice = text.partition("\0")
    return (Broken if kind == b"B" else Unread)(why, advice)


def _ask(door: Callable[[], AbstractContextManager[Store]]) -> str:
    with door() as store:
        return store.read(nodes.DOM0_DOMID) or ""


def _read_until_closed(fd: int, seconds: float) -> bytes:
    """What comes until the other end closes; empty when that takes longer."""
    data, end = b"", time.monotonic() + seconds
    while True:
        if not select.select([fd], [], [], max(end - time.monotonic(), 0))[0]:
            return b""
        more = os.read(fd, 65536)
        if not more:
            return data
        data += more
