# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug hook status``: what ``xl create`` would run, here or for a config."""

import os
from collections.abc import Callable

from xlplug.commands.common import print_lines
from xlplug.dom0.running_xl import started
from xlplug.hook.create import real_xl, wrapper
from xlplug.hook.device_model import PRELOAD, is_ours, preload_library, real
from xlplug.hook.install import first_xl, wrapper_of
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, HostError, XlplugError

#: Shells that remember where in PATH a command was, until "hash -r".
_SHELLS = ("sh", "dash", "bash", "ash", "ksh", "mksh", "zsh")


def status(config: str | None, extra: tuple[str, ...]) -> int:
    """Print what ``xl create`` runs here; with a config, what it would do for that; 1 when it is not hooked."""
    first = first_xl()
    hooked = first is not None and is_ours(first)
    lines = [f"xl            {first or 'not in PATH'}{' (the front end of xlplug)' if hooked else ''}"]
    if first is not None:
        lines.append(f"real xl       {_found(real_xl)}")
    program, wrapper_line = _wrapper(first if hooked else None)
    lines += [
        f"wrapper       {wrapper_line}",
        f"device model  {_found(lambda: real(''))}",
        f"preload       {preload_library(program) or f'no {PRELOAD}: optional, see hooks/preload/README.md'}",
    ]
    if not hooked:
        lines.append("'xl create' is not hooked; run 'xlplug hook install', and put its folder first in PATH")
    elif _older_than(first or ""):
        lines.append("your shell is older than the hook; if it has run xl before, run: hash -r")
    print_lines(lines)
    if config is not None:
        _status_of(config, extra)
    return EXIT_DONE if hooked else EXIT_REFUSED


def _found(find: Callable[[], str]) -> str:
    try:
        return find()
    except XlplugError as error:
        return f"none: {error}"


def _wrapper(front_end: str | None) -> tuple[str, str]:
    """The wrapper's path, "" where there is none, and its line."""
    try:
        path = wrapper() if front_end is None else wrapper_of(front_end)
    except XlplugError as error:
        return "", f"none: {error}"
    return path, path


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
        raise HostError(f"{path} cannot be read", hint="give the path of an xl config", code="XLP201")
    config = parse(data, path, extra)
    if not config.wants_legacy:
        print_lines((f"{path}: needs no legacy range, so xl runs unchanged",))
        return
    own = config.device_model_override
    then = f", then the config's own {own}" if own and not is_ours(own) else ""
    print_lines((f"{path}: the wrapper runs{then}; for what it grants: xlplug plan {path}",))
