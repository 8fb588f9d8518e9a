# SPDX-License-Identifier: LGPL-2.1-only
"""Asks whether xenstored answers, in a process of its own: without a daemon the request never returns."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from xlplug.doctor.reading import Broken, Missing, Reading, Unread, tried
from xlplug.dom0 import nodes
from xlplug.model.hypervisor import Store

_STORE_SECONDS = 5.0  # with no daemon behind it, /dev/xen/xenbus never answers


def xenstored_answer(door: Callable[[], AbstractContextManager[Store]]) -> Reading[str]:
    """What xenstored says of dom0.

    A child asks, because a request through the kernel to a dead xenstored never returns, and cannot be interrupted.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            found = tried(_ask, door)
            kind, text = (type(found).__name__, found.packed()) if isinstance(found, Missing) else ("", found)
            os.write(write_end, f"{kind}\0{text}".encode("utf-8", "surrogateescape"))
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        data = read_until_closed(read_end, _STORE_SECONDS)
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not data:
        return Broken(
            f"xenstored does not answer within {_STORE_SECONDS:.0f} s",
            "start it: systemctl start xenstored (Debian: xen); if it has run already since the boot, reboot",
        )
    kind, _, text = data.decode("utf-8", "surrogateescape").partition("\0")
    if not kind:
        return text
    return {"Broken": Broken, "Unread": Unread}[kind].unpacked(text)


def _ask(door: Callable[[], AbstractContextManager[Store]]) -> str:
    with door() as store:
        return store.read(nodes.DOM0_DOMID) or ""


def read_until_closed(fd: int, seconds: float) -> bytes:
    """What comes until the other end closes; empty when that takes longer."""
    data, end = b"", time.monotonic() + seconds
    while True:
        if not select.select([fd], [], [], max(end - time.monotonic(), 0))[0]:
            return b""
        more = os.read(fd, 65536)
        if not more:
            return data
        data += more
