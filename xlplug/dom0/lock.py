# SPDX-License-Identifier: LGPL-2.1-only
"""The lock that keeps two runs of xlplug from changing grants at the same time, and the folder that it is in."""

import os
import time

from xlplug.model.errors import HostError

__all__ = ["Lock", "locked", "only_watcher", "run_folder"]

#: Root's alone: in /run/lock, which anybody may write to, anybody could hold the lock.
_FOLDER = "/run/xlplug"
#: Seconds that a run waits for another.  libxl gives a device model, and so our wrapper, 60 s to start (libxl_internal.h,
#: LIBXL_DEVICE_MODEL_START_TIMEOUT).
_PATIENCE = 45.0
_INTERVAL = 0.02  # seconds between two tries: flock(2) itself knows no time limit


def run_folder(path: str = "") -> int:
    """A descriptor of our folder below /run, to which root alone may write; made, for root alone, where it is missing.

    A lock in it can be opened by root only: nobody else can hold it.

    Raises:
        HostError: it cannot be made, or somebody else may write to it.
    """
    path = path or _FOLDER
    try:
        try:  # noqa: SIM105 - contextlib would have to be loaded
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{path}: {error.strerror}", hint="is /run mounted, and is this root?", code="XLP821"
        ) from error
    info = os.fstat(fd)
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        os.close(fd)
        raise HostError(
            f"{path} may be written to by others than root",
            hint=f"look at who made it, then: rm -r {path}",
            code="XLP507",
        )
    return fd


class Lock:
    """A lock of that name, held in a ``with``; who else holds it is waited for, then named."""

    def __init__(self, name: str, patience: float, hint: str) -> None:
        self._name = name
        self._patience = patience
        self._hint = hint

    def __enter__(self) -> None:
        from fcntl import LOCK_EX, LOCK_NB, flock

        folder = run_folder()
        try:
            self._fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        except OSError as error:
            raise HostError(
                f"{_FOLDER}/{self._name}: {error.strerror}",
                hint="is there room in /run, and is it writable?",
                code="XLP821",
            ) from error
        finally:
            os.close(folder)
        until = time.monotonic() + self._patience
        try:
            while True:
                try:
                    flock(self._fd, LOCK_EX | LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= until:
                        raise HostError(self._held(), hint=self._hint, code="XLP506") from error
                    time.sleep(_INTERVAL)
            self._sign()
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def _sign(self) -> None:
        """Leave our number for who waits; a full /run does not stop us."""
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        except OSError:
            pass

    def _held(self) -> str:
        text = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
        try:
            with open(f"/proc/{int(text)}/cmdline", "rb") as file:
                words = file.read(4096).replace(b"\0", b" ").decode("utf-8", "backslashreplace").strip()
        except (OSError, ValueError):
            words = "which has ended meanwhile"
        return f"another xlplug holds {_FOLDER}/{self._name}: process {text or 'unknown'}, {words[:200]}"


def locked() -> Lock:
    """One xlplug at a time changes this host's domains; a second one waits, but not forever.

    Raises:
        HostError: the other one has not finished in 45 s.
    """
    return Lock("lock", _PATIENCE, "wait for it to end, or end it, and run this again")


def only_watcher() -> Lock:
    """There is one daemon on a host.

    Raises:
        HostError: one runs already.
    """
    return Lock("watch.lock", 0, "use that one, or stop it first")
