# SPDX-License-Identifier: LGPL-2.1-only
"""A reading of the machine that may have failed: the value, or what stands in its place.

`Broken`, `Unread` and `Skipped` are problems, so a finding takes them as they are.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from xlplug.model.errors import XlplugError
from xlplug.model.problem import Problem

__all__ = ["Broken", "Missing", "Reading", "Skipped", "Unread", "after", "tried"]


class Missing(Problem):
    """In place of a value: why there is none, and what would help."""

    __slots__ = ()


class Broken(Missing):
    """It was tried, and is not as it must be."""

    __slots__ = ()


class Unread(Missing):
    """It could not be looked at.  Nothing is known to be wrong with it."""

    __slots__ = ()


class Skipped(Missing):
    """It was not tried, because it depends on something that failed: ``what`` is the name of that line in the report."""

    __slots__ = ()


T = TypeVar("T")
R = TypeVar("R")

Reading: TypeAlias = T | Missing


def tried(call: Callable[..., T], *arguments: object) -> T | Missing:
    """What a call gives.  Our own errors say that something is wrong; any other, that it could not be read."""
    try:
        return call(*arguments)
    except XlplugError as error:
        return Broken(*error.problem)
    except OSError as error:
        return Unread(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except ImportError as error:
        return Unread(f"without a Python module: {error}")
    except Exception as error:  # noqa: BLE001 - one damaged fact must not take the report away
        return Unread(f"{type(error).__name__}: {error}", "report this as a bug of xlplug")


def after(line: str, reading: Reading[T], call: Callable[[T], R | Missing]) -> R | Missing:
    """What a call makes of a reading.  Where that has failed, the report's ``line`` says why, and this is `Skipped`."""
    if isinstance(reading, Skipped):
        return reading
    return Skipped(line) if isinstance(reading, Missing) else tried(call, reading)
