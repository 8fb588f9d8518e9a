# SPDX-License-Identifier: LGPL-2.1-only
"""Handing a configuration from ``xlplug create`` to the device model wrapper, through an unmodified xl.

libxl starts the device model before it writes the configuration anywhere, and passes its own environment and open file
descriptors on (libxl_exec.c).  So the configuration travels in a sealed memfd.  That has no size limit, is never on a disk, and
cannot change.  xl's own daemon, which creates the domain again when the guest reboots, keeps it open, and it goes with that.

Layout, NUL-terminated: magic, path, device model ("" for libxl's own), number of ``k=v`` words, the words, length of what has
been parsed; then that, and the file.  The daemon of a domain that was created before an upgrade still has the layout of then,
without what has been parsed.
"""

import fcntl
import os
from collections.abc import MutableMapping
from typing import NamedTuple

from xlplug.model.errors import HostError

__all__ = ["VARIABLE", "Handover", "fill", "keep", "naming", "offer", "peek", "reserve", "take"]

#: The environment variable that holds the descriptor's number, and those of the other descriptors that `offer` was given.
VARIABLE = "XLPLUG_HANDOVER"
_MAGIC, _MAGIC_BEFORE = "xlplug-handover-2", "xlplug-handover-1"
_FIRST_FD = 64  # out of the way of what xl and QEMU expect at small numbers


class Handover(NamedTuple):
    """What ``xlplug create`` read: the config's bytes, where from, its ``k=v`` words, and the domain's own override.

    ``parsed`` is the configuration that it has found there, as frozen.py writes it; b"" where it has not.
    """

    data: bytes
    path: str
    extra: tuple[str, ...] = ()
    device_model: str = ""
    parsed: bytes = b""


def offer(handover: Handover, *others: int) -> tuple[str, str]:
    """Put it into a descriptor that survives exec; the environment variable to set, and its value.

    ``others`` are descriptors that xl needs and the device model must not see either.
    """
    return naming(keep(_pack(handover)), *others)


def naming(*fds: int) -> tuple[str, str]:
    """The environment variable to set, and its value, for our descriptor and those to be closed with it."""
    return VARIABLE, ",".join(map(str, fds))


def reserve() -> int:
    """A descriptor that survives exec, for what is not known yet; nothing is handed over unless `fill` comes in time.

    Raises:
        HostError: no memory, or no descriptor.
    """
    try:
        made = os.memfd_create("xlplug-config", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        fd = fcntl.fcntl(made, fcntl.F_DUPFD, _FIRST_FD)
        os.close(made)
    except OSError as error:
        raise _cannot(error) from error
    return fd


def fill(fd: int, handover: Handover) -> None:
    """Put it into a descriptor that `reserve` made, in this process or in one that has inherited it.

    Raises:
        HostError: no memory.
    """
    _write(fd, _pack(handover))


def keep(data: bytes) -> int:
    """A descriptor that survives exec and from which these bytes can be read; nobody can change them.

    Raises:
        HostError: no memory, or no descriptor.
    """
    fd = reserve()
    _write(fd, data)
    return fd


def _pack(handover: Handover) -> bytes:
    words, parsed = handover.extra, handover.parsed
    fields = (_MAGIC, handover.path, handover.device_model, str(len(words)), *words, str(len(parsed)))
    return b"".join(os.fsencode(field) + b"\0" for field in fields) + parsed + handover.data


def _write(fd: int, data: bytes) -> None:
    """Write the bytes, and seal the descriptor."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        raise _cannot(error) from error


def _cannot(error: OSError) -> HostError:
    return HostError(
        f"the config cannot be handed over: {error.strerror}",
        hint="free some memory in dom0, see 'ulimit -n'",
        code="XLP613",
    )


def take(environment: MutableMapping[str, str]) -> Handover | None:
    """What was handed over to this process, None where nothing was.

    The variable is removed and the descriptors marked to be closed, so that the device model sees none of them.

    Raises:
        HostError: the variable names something else: it was set by hand.
    """
    number = environment.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        fds = [int(word) for word in number.split(",")]
        for fd in fds:
            os.set_inheritable(fd, False)
        return _read(fds[0])
    except (OSError, ValueError, OverflowError) as error:
        raise HostError(
            f"{VARIABLE}={number} was not set by 'xlplug create'",
            hint="start the domain with 'xl create'",
            code="XLP613",
        ) from error


def peek(pid: int) -> Handover | None:
    """What a process has been given to hand on, None where nothing was or the process is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
        for variable in variables:
            name, _, number = variable.partition(b"=")
            if name == VARIABLE.encode():
                path = f"/proc/{pid}/fd/{int(number.partition(b',')[0])}"
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # it may be anything, a pipe too
                try:
                    return _read(fd)
                finally:
                    os.close(fd)
    except (OSError, ValueError):
        pass
    return None


def _read(fd: int) -> Handover | None:
    """Read by position: the descriptor's offset is shared with every process that holds it."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    if not data:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # only a memfd has them
        return None  # reserved, and not filled
    magic, path, device_model, count, rest = data.split(b"\0", 4)
    if magic not in (_MAGIC.encode(), _MAGIC_BEFORE.encode()):
        raise ValueError(magic)
    number = int(count)
    if not 0 <= number <= len(rest):
        raise ValueError(count)
    *words, config = rest.split(b"\0", number)
    if len(words) != number:
        raise ValueError(count)
    size = b"0"
    if magic == _MAGIC.encode():
        size, config = config.split(b"\0", 1)
    if not 0 <= int(size) <= len(config):
        raise ValueError(size)
    parsed, config = config[: int(size)], config[int(size) :]
    return Handover(config, os.fsdecode(path), tuple(map(os.fsdecode, words)), os.fsdecode(device_model), parsed)
