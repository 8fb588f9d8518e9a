# SPDX-License-Identifier: LGPL-2.1-only
"""A reading of the machine that may have failed: a value, `Broken` or `Unread`."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

from xlplug.model.errors import XlplugError


class Unread(NamedTuple):
    """It could not be told: why, and what would help.  Nothing is known to be wrong with it."""

    why: str
    advice: str = ""


class Broken(NamedTuple):
    """It was tried, and is not as it must be: what is wrong, and what to do."""

    why: str
    advice: str = ""


T = TypeVar("T")

Reading: TypeAlias = T | Unread | Broken


def tried(call: Callable[..., T], *arguments: object) -> T | Unread | Broken:
    """What a call gives.  Our own errors say that something is wrong; any other, that it could not be read."""
    try:
        return call(*arguments)
    except XlplugError as error:
        return Broken(message_of(error), error.hint)
    except OSError as error:
        return Unread(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except ImportError as error:
        return Unread(f"without a Python module: {error}")
    except Exception as error:  # noqa: BLE001 - one damaged fact must not take the report away
        return Unread(f"{type(error).__name__}: {error}", "report this as a bug of xlplug")


def flat(reading: Reading[Reading[T]]) -> Reading[T]:
    """mypy's view of a reading that itself may have failed: the same value."""
    return reading


def message_of(error: XlplugError) -> str:
    """The error's sentence without its hint."""
    text = str(error)
    return text.removesuffix(f"; {error.hint}") if error.hint else text


def because(reading: Unread | Broken, short: str = "Xen cannot be asked") -> Unread:
    """Not read, since something that it needs is not there; what is broken has its own line, with what to do."""
    return reading if isinstance(reading, Unread) else Unread(short)
