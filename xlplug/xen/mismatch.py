# SPDX-License-Identifier: LGPL-2.1-only
"""Why the installed libxenctrl does not serve the running Xen, in one line with both versions.

That it does not, `xlplug.xen.lib` and `xlplug.xen.ctrl` find out, by loading it and by harmless calls.
"""

import os

from xlplug.model.errors import XenUnavailableError

__all__ = ["absent", "foreign", "incomplete"]

#: Where distributions keep libraries, after what LD_LIBRARY_PATH says.
_FOLDERS = (
    "/usr/local/lib", "/usr/local/lib64", "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64",
    "/usr/lib", "/lib",
)  # fmt: skip
#: A soname, as a file's name and as it stands in the file's own string table.
_NAME = r"libxenctrl\.so\.(\d+\.\d+)"
_SONAME = rb"\0libxenctrl\.so\.(\d+\.\d+)\0"


def absent(wanted: str, folders: tuple[str, ...] | None = None) -> XenUnavailableError:
    """The running Xen's library is not there; ``wanted`` is its version, such as "4.20"."""
    there = " and ".join(sorted(_installed(folders) - {wanted}, key=_numbers))
    have = f", only Xen {there}'s is" if there else ""
    boot = f", or boot Xen {there.replace(' and ', ' or ')}" if there else ""
    return XenUnavailableError(
        f"the running Xen's libxenctrl.so.{wanted} is not installed{have}",
        hint=f"install it (Debian: libxenmisc{wanted}){boot}",
        code="XLP104",
    )


def foreign(wanted: str, running: str, maps: str = "/proc/self/maps") -> XenUnavailableError:
    """The running Xen's version stands on the loaded library, and Xen refuses its calls.

    ``running`` is Xen's full version, such as "4.20.4"; ``maps`` is a process's list of mappings: the loaded file is in it.
    """
    path = _loaded(maps)
    real = _own_version(path)
    if real in ("", wanted):
        return XenUnavailableError(
            f"the installed libxenctrl.so.{wanted} is of another build than the running Xen {running}, which refuses it",
            hint=f"install libxenmisc{wanted} from the same build as the running Xen, or reboot into the library's",
            code="XLP105",
        )
    return XenUnavailableError(
        f"{path} is Xen {real}'s library, and the running Xen {running} refuses it",
        hint=f"install the real libxenctrl.so.{wanted} (Debian: libxenmisc{wanted}), or boot Xen {real}",
        code="XLP105",
    )


def incomplete(wanted: str, name: str) -> XenUnavailableError:
    """The library has no function ``name``, or answers in an unknown form: a Xen that is newer than this xlplug."""
    return XenUnavailableError(
        f"{name} of the running Xen's libxenctrl.so.{wanted} is not as this xlplug knows it",
        hint="use an xlplug that is newer than this Xen",
        code="XLP105",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _installed(folders: tuple[str, ...] | None) -> set[str]:
    """Versions of the installed libxenctrl."""
    import re

    if folders is None:
        folders = (*filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")), *_FOLDERS)
    found: set[str] = set()
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        found |= {match[1] for name in names if (match := re.fullmatch(_NAME, name))}
    return found


def _loaded(maps: str) -> str:
    """The file that was loaded, its links resolved; empty when it is not known."""
    try:
        with open(maps, encoding="utf-8", errors="surrogateescape") as file:
            # Six columns, the last of them the path: proc(5).
            paths = {line.rstrip("\n").split(None, 5)[-1] for line in file if "/libxenctrl.so." in line}
    except OSError:
        return ""
    return paths.pop() if len(paths) == 1 else ""


def _own_version(path: str) -> str:
    """The version in the file's own soname; empty when there is none, or more than one."""
    import re

    try:
        with open(path, "rb") as file:
            found = set(re.findall(_SONAME, file.read()))
    except OSError:
        return ""
    return found.pop().decode() if len(found) == 1 else ""
