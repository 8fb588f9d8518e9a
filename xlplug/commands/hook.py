# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug hook status``: what ``xl create`` would run, here or for a config."""

import os
import sys

from xlplug.dom0.running_xl import started
from xlplug.hook.create import real_xl, wrapper
from xlplug.hook.device_model import PRELOAD, is_ours, preload_library, real
from xlplug.hook.install import first_xl, wrapper_of
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, HostError, XlplugError

#: Shells that remember where in PATH a command was, until "hash -r".
_SHELLS = ("sh", "dash", "bash", "ash", "ksh", "mksh", "zsh")


def status(config: str | None, extra: tuple[str, ...]) -> int:
    """What ``xl create`` would run here; with a config, what it would run and grant for that; 1 when nothing hooks it."""
    first = first_xl()
    hooked = first is not None and is_ours(first)
    sys.stdout.write(f"xl:           {first or 'none in PATH'}{' (front end of xlplug)' if hooked else ''}\n")
    for label, find in (
        ("real xl:     ", real_xl),
        ("wrapper:     ", lambda: wrapper_of(first) if hooked and first else wrapper()),
        ("device model:", lambda: real("")),
        ("preload:     ", lambda: _library(wrapper_of(first) if hooked and first else wrapper())),
    ):
        try:
            sys.stdout.write(f"{label} {find()}\n")
        except XlplugError as error:
            sys.stdout.write(f"{label} {error}\n")
    if not hooked:
        sys.stdout.write(
            "'xl create' is not hooked; run 'xlplug hook install' and see that its folder comes first in PATH\n"
        )
    elif _older_than(first or ""):
        sys.stdout.write("your shell is older than the hook; if it has run xl before, run: hash -r\n")
    if config is not None:
        _status_of(config, extra)
    return EXIT_DONE if hooked else EXIT_REFUSED


def _older_than(front_end: str) -> bool:
    """Whether the shell that called us was there before the front end.  What it remembers of PATH cannot be read from outside."""
    try:
        with open(f"/proc/{os.getppid()}/comm", encoding="ascii", errors="replace") as file:
            shell = file.read().strip() in _SHELLS
        return shell and started(os.getppid()) < os.lstat(front_end).st_ctime
    except (OSError, ValueError):
        return False


def _status_of(path: str, extra: tuple[str, ...]) -> None:
    from xlplug.dom0.find_config import parse, read_as_xl

    data = read_as_xl(path)
    if data is None:
        raise HostError(f"{path} cannot be read", hint="give the path of an xl config")
    config = parse(data, path, extra)
    if not config.wants_legacy:
        sys.stdout.write(f"{path}: needs no legacy range: the real xl would run unchanged\n")
        return
    own = config.device_model_override
    then = f", then the config's own {own}" if own and not is_ours(own) else ""
    sys.stdout.write(f"{path}: the wrapper would run{then}; what it would grant: xlplug plan {path}\n")


def _library(wrapper: str) -> str:
    return preload_library(wrapper) or f"no {PRELOAD} (optional; see hooks/preload/README.md)"
