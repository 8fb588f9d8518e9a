# SPDX-License-Identifier: LGPL-2.1-only
"""The hook of a distribution's package: ``xlplug hook install`` links the package's front end of xl into PATH.

A package has its front end and wrapper in ``PREFIX/lib/xlplug``, where they do nothing.  A link, not copies: an upgrade of
the package is an upgrade of the hook, and the path of the wrapper, which running guests reboot through, never changes.  Xen's
own xl is another package's file, not one of several alternatives, and to divert it would change what every path to xl means.
"""

import contextlib
import os
from pathlib import Path

from xlplug.dom0.streams import say
from xlplug.hook.device_model import is_ours
from xlplug.model.errors import HostError

__all__ = ["front_end_of", "is_link", "make", "remove"]


def front_end_of(program: str) -> str | None:
    """The front end that a package has for its own ``PREFIX/bin/xlplug``; None where xlplug is not from a package."""
    program = os.path.abspath(program)
    path = os.path.join(os.path.dirname(os.path.dirname(program)), "lib", "xlplug", "xl")
    try:
        starts = f"xlplug={program}" in Path(path).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    return path if starts and is_ours(path) else None


def is_link(path: Path) -> bool:
    """Whether the hook at ``path`` is a link of ours; also when the package, and so what it points to, is gone."""
    try:
        return os.readlink(path).endswith("/lib/xlplug/xl")
    except OSError:
        return False


def make(path: Path, front_end: str) -> None:
    """Link ``path`` to the package's front end, in place of an earlier link of ours.

    Raises:
        HostError: something else is there, or it cannot be made.
    """
    if os.path.lexists(path) and not is_link(path):
        raise HostError(f"{path} exists and is not xlplug's", hint="give another --prefix", code="XLP604")
    part = path.with_name(f"{path.name}.xlplug-new")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        part.symlink_to(front_end)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise HostError(
            f"{path.parent}: {error.strerror}",
            hint="run it as root, or give a --prefix that can be written",
            code="XLP605",
        ) from error
    say(f"installed {path}, a link to {front_end}")


def remove(path: Path) -> None:
    """Remove the link.

    Raises:
        HostError: it cannot be removed.
    """
    try:
        path.unlink()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="run it as root", code="XLP605") from error
    say(f"removed {path}")
