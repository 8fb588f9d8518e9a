# SPDX-License-Identifier: LGPL-2.1-only
"""Becoming another program as if Python had never run in this process.

Python ignores two signals, and in the C locale sets LC_CTYPE (PEP 538); exec would hand both on.  Descriptors are not its
concern: what Python opens is closed by exec (PEP 446).
"""

import _signal as signal  # type: ignore[import-not-found] # its own functions; signal adds enums, which takes 3 ms
import os
from collections.abc import Mapping, Sequence
from typing import NoReturn

__all__ = ["become", "first_environment"]


def become(path: str, argv: Sequence[str], changes: Mapping[str, str | None]) -> NoReturn:
    """Exec ``path`` in the environment that this process was started with; ``changes`` sets variables, or drops (None).

    Raises:
        OSError: it cannot be executed.
    """
    environment = first_environment()
    for name, value in changes.items():
        environment.pop(os.fsencode(name), None)
        if value is not None:
            environment[os.fsencode(name)] = os.fsencode(value)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execve(path, list(argv), environment)  # noqa: S606 - no shell


def first_environment() -> dict[bytes, bytes]:
    """The environment at exec, which the kernel keeps; Python's own where there is no /proc."""
    try:
        with open("/proc/self/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    found: dict[bytes, bytes] = {}
    for word in words:
        name, equals, value = word.partition(b"=")
        if equals:
            found.setdefault(name, value)  # as getenv(3), the first of two
    return found
