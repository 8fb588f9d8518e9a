# SPDX-License-Identifier: LGPL-2.1-only
"""The lock that keeps two runs of xlplug from changing grants at the same time."""

import os

from xlplug.model.errors import HostError

_LOCK = "/run/lock/xlplug.lock"


class locked:  # noqa: N801 - reads as "with locked():"; a class, as contextlib takes longer to load than all of this module
    """One xlplug at a time changes this host's domains; a second one waits."""

    def __enter__(self) -> None:
        from fcntl import LOCK_EX, flock

        try:
            self._fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HostError(f"{_LOCK}: {error.strerror}", hint="is /run/lock there and writable?") from error
        try:
            flock(self._fd, LOCK_EX)
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)
