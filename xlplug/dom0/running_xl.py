# SPDX-License-Identifier: LGPL-2.1-only
"""Finding the ``xl create`` that is making a domain: at that time its configuration is nowhere else.

xl's own daemon, which creates the domain again when the guest reboots, has the same command line.
"""

import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from xlplug.config.xl_command_line import Create, parse_xl

__all__ = ["Creator", "creates", "creators", "reads", "remains", "started"]


class Creator(NamedTuple):
    """A running ``xl create``: ``config`` is the path as seen from here; ``started`` in seconds since the epoch."""

    pid: int
    create: Create
    config: str
    started: float


def creators(proc: str = "/proc") -> Iterator[Creator]:
    """Every ``xl create`` of this user with a configuration file, the latest first.

    Another user's process may have any name, and must not decide what root grants.
    """
    found = []
    booted = _booted()  # once: two readings differ, and which process is the later one must not depend on that
    for pid in (int(name) for name in os.listdir(proc) if name.isdecimal()):
        folder = f"{proc}/{pid}"
        try:
            if os.stat(folder).st_uid != os.geteuid():
                continue
            create = _create(folder)
            if create is not None and not create.dry_run:
                found.append(Creator(pid, create, _path(folder, create.path), booted + _uptime(folder)))
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
    yield from sorted(found, key=lambda creator: (creator.started, creator.pid), reverse=True)


def remains(creator: Creator, proc: str = "/proc") -> bool:
    """Whether it is still the same ``xl create`` of this user's, so that what we read of it in /proc is valid.

    Between fork and exec a child of xl has xl's command line, so it looks like xl.  While it is in exec, its environment reads
    as empty, as if nothing had been handed over (Linux, fs/proc/base.c, env_end).  But then its command line reads as empty
    too, and afterwards as that of another program.  So if the command line is unchanged, the environment was read before exec.
    """
    try:
        return _create(f"{proc}/{creator.pid}") == creator.create
    except (OSError, ValueError):
        return False


def reads(creator: Creator, proc: str = "/proc") -> bool:
    """Whether its config's path leads that xl to the file that it leads us to: a service's /tmp may be its own (PrivateTmp=)."""
    if creator.config.startswith(f"{proc}/"):
        return True
    try:
        return os.path.samestat(os.stat(creator.config), os.stat(f"{proc}/{creator.pid}/root{creator.config}"))
    except OSError:
        return False


def creates(pid: int, path: str, extra: tuple[str, ...], proc: str = "/proc") -> bool:
    """Whether a process is the ``xl create`` of this config, and so of one domain only, even if that has a new name by now.

    ``extra`` are the ``k=v`` words that were typed; ours may come behind them.
    """
    try:
        create = _create(f"{proc}/{pid}")
    except (OSError, ValueError):
        return False
    return create is not None and create.path == path and create.extra[: len(extra)] == extra


def _create(folder: str) -> Create | None:
    with open(f"{folder}/cmdline", "rb") as file:
        create = parse_xl([os.fsdecode(word) for word in file.read().split(b"\0")[:-1]])
    return create if create is not None and _is_ours(folder) else None


def _is_ours(folder: str) -> bool:
    """Whether this user has started a process, and not a program of this user's that anybody may start.

    A setuid program is root's by its effective user, but its words, its environment and its descriptors are those of whoever
    has started it.  Some make themselves root's altogether before they ask for a password, so its file counts as well; and it
    counts last, because such a program becomes another one only for somebody whom it lets.
    """
    with open(f"{folder}/status", "rb") as file:
        users = [int(user) for line in file if line.startswith(b"Uid:") for user in line.split()[1:]]
    if set(users) != {os.geteuid()}:
        return False
    return not os.stat(f"{folder}/exe").st_mode & (stat.S_ISUID | stat.S_ISGID)


def _path(folder: str, path: str) -> str:
    """The config's path as this process finds the same file."""
    start, _, descriptor = path.rpartition("/")
    if path == "/dev/stdin" or start in ("/dev/fd", "/proc/self/fd"):
        return f"{folder}/fd/{0 if path == '/dev/stdin' else descriptor}"
    if path.startswith("/"):
        return path
    where = os.readlink(f"{folder}/cwd")
    if (
        where == "/"
    ):  # xl's daemon has gone there (daemon(3)); its environment still has the folder where it was started
        with open(f"{folder}/environ", "rb") as file:
            names = [word[4:] for word in file.read().split(b"\0") if word.startswith(b"PWD=")]
        where = os.fsdecode(names[0]) if names else where
    return os.path.join(where, path)


def started(pid: int) -> float:
    """When a process was started, in seconds since the epoch.

    Raises:
        OSError, ValueError: there is no such process.
    """
    return _booted() + _uptime(f"/proc/{pid}")


def _uptime(folder: str) -> float:
    """Field 22 of stat(5), in seconds since boot.  The name in field 2 may hold anything, so count from its end."""
    with open(f"{folder}/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def _booted() -> float:
    """When the machine was booted, in seconds since the epoch.

    Between its two readings this process may have to wait, which makes the difference too small, never too large.
    """
    return max(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) for _ in range(3))
