# SPDX-License-Identifier: LGPL-2.1-only
"""Becoming another program as if Python had never run in this process.

Python ignores two signals, and sets LC_CTYPE in the C locale (PEP 538); the next program would inherit both.  Descriptors need
no care: exec closes what Python has opened (PEP 446).
"""

import _signal as signal  # type: ignore[import-not-found] # its own functions; signal adds enums, which takes 3 ms
import os
from collections.abc import Mapping, Sequence
from typing import NoReturn

__all__ = ["become", "first_environment"]


def become(path: str, argv: Sequence[str], changes: Mapping[str, str | None]) -> NoReturn:
    """Exec ``path`` in the environment that this process was started with.

    ``changes`` sets variables in it, or removes those whose value is None.

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
    """The environment at our own exec, which the kernel keeps; Python's if /proc is not mounted."""
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
