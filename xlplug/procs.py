# SPDX-License-Identifier: LGPL-2.1-only
"""Finding the ``xl create`` that is making a domain: at that time its configuration is nowhere else.

xl's own daemon, which makes the domain anew when the guest reboots, has the same command line.
"""

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from xlplug.xlcmd import Create, parse_xl

__all__ = ["Creator", "creators"]


class Creator(NamedTuple):
    """A running ``xl create``: ``config`` is the path as seen from here; ``started`` in seconds since the epoch."""

    pid: int
    create: Create
    config: str
    started: float


def creators(proc: str = "/proc") -> Iterator[Creator]:
    """Every ``xl create`` with a configuration file, the latest process first."""
    pids = sorted((int(name) for name in os.listdir(proc) if name.isdecimal()), reverse=True)
    for pid in pids:
        try:
            with open(f"{proc}/{pid}/cmdline", "rb") as file:
                argv = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
            create = parse_xl(argv)
            if create is None or create.dry_run:
                continue
            folder = os.readlink(f"{proc}/{pid}/cwd")
            yield Creator(pid, create, os.path.join(folder, create.path), _started(f"{proc}/{pid}"))
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile


def _started(folder: str) -> float:
    """Field 22 of stat(5): clock ticks since boot.  The name in field 2 may hold anything, so count from its end."""
    with open(f"{folder}/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")
