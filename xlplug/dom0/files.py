# SPDX-License-Identifier: LGPL-2.1-only
"""Reading the files that users name: configurations, recordings, saved domains.  Nothing larger than `MAX_BYTES` is read."""

import os
import stat

from xlplug.model.errors import ConfigError

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["MAX_BYTES", "open_regular", "read_all"]

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
