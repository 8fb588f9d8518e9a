# SPDX-License-Identifier: LGPL-2.1-only
"""The files that users name: what is read is at most `MAX_BYTES`, what is written is there whole or not at all."""

import os
import stat

from xlplug.model.errors import ConfigError, HostError

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["MAX_BYTES", "open_regular", "read_all", "write_whole"]

MAX_BYTES = 64 << 20  #: xl reads a config whole, and the largest in use are some KiB


def open_regular(path: str) -> "BinaryIO | None":
    """A regular file, opened; None for anything else: reading a pipe would block, and take from xl what we read.

    Raises:
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return os.fdopen(fd, "rb")


def read_all(file: "BinaryIO", path: str) -> bytes:
    """All that is in an open file; ``path`` is its name for the error.

    Raises:
        ConfigError: more than `MAX_BYTES`.
        OSError: it cannot be read.
    """
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"more than {MAX_BYTES >> 20} MiB", path=path, hint="give the path of a smaller file", code="XLP201"
        )
    return data


def _is_standard_output(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


def write_whole(path: str, data: bytes) -> None:
    """A new file with the data, or the old one as it was.  A device or a pipe is written to, and stays what it is.

    Somebody else may own the folder, as that of Prometheus' collector, and must not choose what root writes over.

    Raises:
        HostError: it cannot be written, or it is a link that somebody else than root or this user has made.
    """
    link = os.path.islink(path)
    if link and os.lstat(path).st_uid not in (0, os.geteuid()):
        raise HostError(f"{path} is a link that somebody else has made", hint="give the path itself", code="XLP820")
    real = os.path.realpath(path) if link else path  # what becomes a link from now on is replaced, not followed
    part = f"{real}.{os.getpid()}"
    try:
        if _is_standard_output(path):  # such as /dev/stdout with >> FILE: what is in the file stays
            with open(1, "wb", closefd=False) as file:
                file.write(data)
            return
        if os.path.exists(path) and not os.path.isfile(path):
            follow = 0 if link else os.O_NOFOLLOW
            with open(path, "wb", opener=lambda name, flags: os.open(name, flags | follow)) as file:
                file.write(data)
            return
        if os.path.lexists(part):
            os.unlink(part)
        with open(part, "xb") as file:
            try:
                file.write(data)
                file.flush()
                os.replace(part, real)
            except OSError:
                os.unlink(part)
                raise
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="give a path that can be written", code="XLP820") from error
