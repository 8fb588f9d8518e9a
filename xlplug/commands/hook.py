# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug hook status``: what ``xl create`` would run, here or for a config."""

import os
from collections.abc import Callable

from xlplug.commands.common import print_json, print_lines
from xlplug.dom0.running_xl import started
from xlplug.hook.create import real_xl, wrapper
from xlplug.hook.device_model import is_ours, preload_library, real
from xlplug.hook.install import first_xl, wrapper_of
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, XlplugError

#: Shells that remember where in PATH a command was, until "hash -r".
_SHELLS = ("sh", "dash", "bash", "ash", "ksh", "mksh", "zsh")


#: Debian's package of that name; RPM's is called the same (packaging/xlplug-preload.spec).
_NO_PRELOAD = "none: optional; install the package xlplug-preload, or from the sources: make preload install-preload"


def status(config: str | None, extra: tuple[str, ...], form: str = "text") -> int:
    """Print what ``xl create`` runs here; with a config, what it would do for that; 1 when it is not hooked."""
    first = first_xl()
    hooked = first is not None and is_ours(first)
    program, wrapper_line = _wrapper(first if hooked else None)
    found = {
        "xl": f"{first or 'not in PATH'}{' (the front end of xlplug)' if hooked else ''}",
        "real xl": None if first is None else _found(real_xl),
        "wrapper": wrapper_line,
        "device model": _found(lambda: real("")),
        "preload": preload_library(program) or _NO_PRELOAD,
    }
    advice = []
    if not hooked:
        installed = _installed()
        do = "run 'xlplug hook install'" if installed is None else f"put {installed} at the beginning of PATH"
        advice.append(f"'xl create' is not hooked; {do}")
    elif _older_than(first or ""):
        advice.append("your shell is older than the hook; if it has run xl before, run: hash -r")
    if form == "text":
        print_lines([*(f"{name:<12}  {what}" for name, what in found.items() if what is not None), *advice])
    if config is not None:
        advice.append(_status_of(config, extra))
        if form == "text":
            print_lines(advice[-1:])
    if form == "json":
        print_json(
            {"hooked": hooked, **{name.replace(" ", "_"): what for name, what in found.items()}, "advice": advice}
        )
    return EXIT_DONE if hooked else EXIT_REFUSED


def _installed() -> str | None:
    """The folder of a front end that PATH does not find first."""
    folders = [*os.environ.get("PATH", os.defpath).split(":"), "/usr/local/sbin"]
    return next((folder for folder in folders if is_ours(f"{folder or '.'}/xl")), None)


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


def _status_of(path: str, extra: tuple[str, ...]) -> str:
    """What the hook does for a config, in a line."""
    from xlplug.dom0.find_config import must_read_as_xl, parse

    config = parse(must_read_as_xl(path), path, extra)
    if not config.wants_legacy:
        return f"{path}: needs no legacy range, so xl runs unchanged"
    own = config.device_model_override
    then = f", then the config's own {own}" if own and not is_ours(own) else ""
    return f"{path}: the wrapper would run{then}; for what it grants: xlplug plan {path}"
