# SPDX-License-Identifier: LGPL-2.1-only
"""Counts of what the hook and ``grant`` did since the host was booted, for ``xlplug metrics``.

One small file, locked while it is changed.  Counting never stops what is counted: every error here is ignored.
"""

import os
import time
from fcntl import LOCK_EX, LOCK_NB, flock

__all__ = ["OUTCOMES", "PATH", "add", "read"]

PATH = "/run/xlplug/tally"
_ON_XEN = "/proc/xen"
_PATIENCE = 1.0  # seconds for a file that is locked for less than a millisecond, unless whoever has it was stopped
_LARGEST = 1 << 14  # bytes: a few dozen lines
#: By the exit status of a run (docs/reference.md).
OUTCOMES = {0: "done", 1: "refused", 3: "failed", 4: "not undone"}


def add(by: str, status: int, seconds: float | None = None, path: str = PATH) -> None:
    """Count a run of ``by`` that ended with ``status``; with ``seconds``, how long the device model had to wait for it."""
    if status not in OUTCOMES or (path == PATH and not os.path.exists(_ON_XEN)):
        return
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError:
        return
    try:
        _lock(fd)
        counts = _parsed(os.pread(fd, _LARGEST, 0))
        _increase(counts, f"runs {by} {OUTCOMES[status].replace(' ', '_')}", 1)
        if seconds is not None:
            _increase(counts, f"seconds {by}", seconds)
            _increase(counts, f"waits {by}", 1)
        data = "".join(f"{name} {value:.6f}\n" for name, value in sorted(counts.items())).encode()
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    except OSError:
        pass
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    """Lock it.

    Raises:
        OSError: somebody else does not let go of it.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.002)


def read(path: str = PATH) -> dict[str, float]:
    """The counts: "runs BY OUTCOME", "seconds BY" and "waits BY"; empty where nothing was counted."""
    try:
        with open(path, "rb") as file:
            return _parsed(file.read(_LARGEST))
    except OSError:
        return {}


def _increase(counts: dict[str, float], name: str, by: float) -> None:
    counts[name] = counts.get(name, 0.0) + by


def _parsed(data: bytes) -> dict[str, float]:
    found = {}
    for line in data.decode("ascii", "replace").splitlines():
        name, _, value = line.rpartition(" ")
        try:
            number = float(value)
        except ValueError:
            continue
        if abs(number) < float("inf"):  # which is not so of "nan" either
            found[name] = number
    return found
