# SPDX-License-Identifier: LGPL-2.1-only
"""The lock that keeps two runs of xlplug from changing grants at the same time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from xlplug.model.errors import HostError

_LOCK = "/run/lock/xlplug.lock"


@contextmanager
def locked() -> Iterator[None]:
    """One xlplug at a time changes this host's domains; a second one waits."""
    import fcntl

    try:
        fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"{_LOCK}: {error.strerror}", hint="is /run/lock there and writable?") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
