# SPDX-License-Identifier: LGPL-2.1-only
"""Where the OpRegion was when it was first seen since boot: ``/run/xlplug/opregion``, root's alone.

Whoever was granted an OpRegion can write it, and a guest with a permissive device may reach the register that has its address.
So that neither decides what the next guest is granted, the address is noted the first time that a good header is found there,
which is the signature's page too; from then on another address is refused (igd.py).
"""

import os
import stat

from xlplug.igd import header_fault
from xlplug.model.host import OpRegion

__all__ = ["FOLDER", "pinned", "remember"]

FOLDER = "/run/xlplug"
_NAME = "opregion"
_LONGEST = 64  # bytes of a file that we read


def pinned(folder: str = FOLDER) -> int | None:
    """The address noted since boot; None where there is none, or it is not ours to read.

    A folder or file that someone else than root could have written counts as an address that nothing matches: 0.
    """
    try:
        fd = os.open(f"{folder}/{_NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            text = os.read(fd, _LONGEST)
            trusted = _is_private(os.fstat(fd)) and _is_private(os.lstat(folder))
        finally:
            os.close(fd)
        return int(text, 16) if trusted else 0
    except (FileNotFoundError, PermissionError):
        return None
    except (OSError, ValueError):
        return 0


def remember(region: OpRegion | None, folder: str = FOLDER) -> int | None:
    """The address noted since boot.  Where there is none, this ``region``'s is noted, if its header is good and we are root."""
    before = pinned(folder)
    if before is not None or region is None or header_fault(region) or os.geteuid() != 0:
        return before
    path = f"{folder}/{_NAME}"
    mine = f"{path}.{os.getpid()}"
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        fd = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, f"{region.maddr:x}\n".encode())
        finally:
            os.close(fd)
        try:
            os.link(mine, path)  # whole, or not at all; and never over another process's
        except FileExistsError:
            pass
        finally:
            os.unlink(mine)
    except OSError:
        return None
    return pinned(folder)


def _is_private(found: os.stat_result) -> bool:
    """Whether nobody but the owner of this process, root in dom0, can have written it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
