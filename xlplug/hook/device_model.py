# SPDX-License-Identifier: LGPL-2.1-only
"""The device model: which program it is, and what libxl's command line for it says.

Source of the command line: tools/libs/light/libxl_dm.c, libxl__build_device_model_args_new.
"""

import os
from collections.abc import Callable
from itertools import pairwise

from xlplug.model.errors import HostError

__all__ = [
    "MARKER", "PRELOAD", "default_path", "domid_of", "executable", "firmware_folder", "is_ours",
    "preload_library", "real", "restores",
]  # fmt: skip

#: Begins the second line of our wrapper and of our front end, by which they are recognised under any name.
MARKER = b"# xlplug: "

#: Our library for QEMU (hooks/preload).
PRELOAD = "libxlplug-preload.so"
_PRELOAD_FOLDERS = ("/usr/local/lib/xlplug", "/usr/lib/xlplug")

_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/usr/local/lib64")
#: How the default path ends.  Source: tools/configure.ac, qemu_xen_path, or what --with-system-qemu gave.
_PROGRAMS = (b"qemu-system-i386", b"qemu-system-x86_64")


def domid_of(arguments: list[str]) -> int | None:
    """The domain that the device model will serve; None when libxl only probes it (4.20 and later), and for ``-help``."""
    for option, value in pairwise(arguments):
        if option == "-xen-domid":
            return int(value) if value.isascii() and value.isdecimal() and len(value) <= 5 else None
    return None


def restores(arguments: list[str]) -> bool:
    """Whether QEMU will continue a saved guest, whose RAM is there already."""
    return "-incoming" in arguments


def is_ours(path: str) -> bool:
    """Whether a program is one of our own hooks, which must never run itself."""
    try:
        # A pipe is not waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read(512).partition(b"\n")[2].startswith(MARKER)
    except OSError:
        return False


def default_path(version: tuple[int, int], folders: tuple[str, ...] = _FOLDERS) -> str:
    """The device model that libxl of this Xen starts by default: a string built into the library.

    From 4.21 that may be a name without a folder, which libxl looks up in PATH (tools/libs/light/libxl_dm.c,
    libxl__domain_device_model); then the result is what it finds.

    Raises:
        HostError: the library is not where libraries are, or has no such string, or PATH has no such program.
    """
    part = b"qemu-system-"
    text = _built_in(version, folders, lambda text: text.startswith(b"/") and text.endswith(_PROGRAMS), part)
    if text is not None:
        return text
    text = _built_in(version, folders, lambda text: text in _PROGRAMS, part)
    if text is not None:
        return _in_path(text)
    raise HostError(
        f"{_library(version)} does not name the device model that it starts",
        hint="set device_model_override in the domain's config",
        code="XLP612",
    )


def firmware_folder(version: tuple[int, int], folders: tuple[str, ...] = _FOLDERS) -> str:
    """Where libxl of this Xen looks for a stubdomain that the configuration does not name: built into the library as well.

    Source: tools/libs/light/libxl_paths.c, libxl__xenfirmwaredir_path; XEN_LIB_DIR/boot by tools/configure.ac.

    Raises:
        HostError: the library is not in a usual folder, or has no such string.
    """
    text = _built_in(version, folders, lambda text: text.startswith(b"/") and text.endswith(b"/boot"), b"/boot\0")
    if text is not None:
        return text
    raise HostError(
        f"{_library(version)} does not name the folder for stubdomains",
        hint="set stubdomain_kernel and stubdomain_ramdisk in the domain's config",
        code="XLP612",
    )


def _library(version: tuple[int, int]) -> str:
    return f"libxenlight.so.{version[0]}.{version[1]}"


def _built_in(
    version: tuple[int, int], folders: tuple[str, ...], fits: Callable[[bytes], bool], part: bytes
) -> str | None:
    """The first string in the library that contains ``part`` and fits."""
    for folder in folders:
        try:
            with open(f"{folder}/{_library(version)}", "rb") as file:
                data = file.read()
        except OSError:
            continue
        at = data.find(part)
        while at >= 0:
            text = data[data.rfind(b"\0", 0, at) + 1 : max(data.find(b"\0", at), at)]
            if fits(text):
                return os.fsdecode(text)
            at = data.find(part, at + 1)
    return None


def real(override: str) -> str:
    """The program to become: the domain's own override, or libxl's default if that is "" or one of our wrappers.

    Raises:
        HostError: it is missing or not executable.
        XenUnavailableError: it is libxl's default, and we are not running on Xen.
    """
    if override and not is_ours(override):
        return executable(override)
    from xlplug.xen.lib import running_version

    return executable(default_path(running_version()[:2]))


def _in_path(name: str) -> str:
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise HostError(
        f"the device model {name} is not in PATH",
        hint="install it, or set device_model_override in the domain's config",
        code="XLP612",
    )


def preload_library(wrapper: str, folders: tuple[str, ...] = _PRELOAD_FOLDERS) -> str | None:
    """Our library for a QEMU that ``wrapper`` starts, beside it or in a package's folder; None if it is not installed.

    Spaces and colons separate names in LD_PRELOAD (ld.so(8)), so a folder with either in its name is skipped.
    """
    for folder in (os.path.dirname(wrapper), *folders):
        path = f"{folder}/{PRELOAD}"
        if folder.startswith("/") and not set(" :") & set(path) and os.access(path, os.R_OK):
            return path
    return None


def executable(path: str) -> str:
    """The same path, once it is known to be executable.

    Raises:
        HostError: it is missing or not executable.
    """
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise HostError(
            f"the device model {path} is missing or not executable",
            hint="install it (Debian: qemu-system-xen), or correct device_model_override",
            code="XLP612",
        )
    return path
