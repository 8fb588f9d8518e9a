# SPDX-License-Identifier: LGPL-2.1-only
"""Finding and opening Xen's C libraries, and the one place where a return code becomes an exception.

libxenctrl changes with every Xen, so it is loaded by the version of the *running* hypervisor, never the newest that
happens to be installed.  The others have stable interfaces.
"""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn, Self, cast

from xlplug.model.errors import NotOnXenError, XenError, XenUnavailableError
from xlplug.xen._ffi import ffi
from xlplug.xen.protocols import CTRL_CALLS, CtrlLib, LibC, ToollogLib

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "SYS_HYPERVISOR",
    "check",
    "ffi",
    "has",
    "libc",
    "load_ctrl",
    "load_stable",
    "Handle",
    "QuietLogger",
    "StableHandle",
    "require_dom0",
    "running_capabilities",
    "running_version",
]

#: Source: Linux Documentation/ABI/stable/sysfs-hypervisor-xen.
SYS_HYPERVISOR = "/sys/hypervisor"
_CAPABILITIES = "/proc/xen/capabilities"  # holds "control_d" in dom0; xenfs


def _read(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read().decode("ascii", "replace").strip()
    except OSError:
        return None


def running_version(sys_hypervisor: str = SYS_HYPERVISOR) -> tuple[int, int, str]:
    """Major and minor of the running Xen, and its full version text, from sysfs.

    Raises:
        NotOnXenError, XenUnavailableError: this machine does not run on Xen, or sysfs does not say which.
    """
    if _read(f"{sys_hypervisor}/type") != "xen":
        raise NotOnXenError("this machine does not run on Xen", hint="boot the Xen entry of the boot menu")
    major, minor = (_read(f"{sys_hypervisor}/version/{part}") for part in ("major", "minor"))
    extra = _read(f"{sys_hypervisor}/version/extra") or ""
    if not (major and minor and major.isdecimal() and minor.isdecimal()):
        raise XenUnavailableError(
            f"{sys_hypervisor}/version does not hold Xen's version", hint="mount sysfs on /sys", code="XLP106"
        )
    return int(major), int(minor), f"{major}.{minor}{extra}"


def running_capabilities(sys_hypervisor: str = SYS_HYPERVISOR) -> str:
    """The running Xen's capabilities line ("xen-3.0-x86_64 hvm-3.0-x86_32 …"), empty when sysfs does not have it."""
    return _read(f"{sys_hypervisor}/properties/capabilities") or ""


def require_dom0(capabilities: str = _CAPABILITIES) -> None:
    """Refuse early where no call could succeed.

    Raises:
        XenUnavailableError: not root, or not in the control domain.
    """
    running_version()
    if os.geteuid() != 0:
        raise XenUnavailableError("Xen can be changed by root only", hint="run it with sudo", code="XLP102")
    text = _read(capabilities)
    if text is None:
        raise XenUnavailableError(
            f"{capabilities} cannot be read", hint="mount it: mount -t xenfs xenfs /proc/xen", code="XLP106"
        )
    if "control_d" not in text:
        raise XenUnavailableError("this is a guest domain", hint="run xlplug in dom0", code="XLP103")


#: Sonames in order of preference, and their Debian packages.  Xen 4.14's libxenstore has all that we call.
_STABLE = {
    "xenstore": (("libxenstore.so.4", "libxenstore4"), ("libxenstore.so.3.0", "libxenstore3.0")),
    "xendevicemodel": (("libxendevicemodel.so.1", "libxendevicemodel1"),),
    "xentoollog": (("libxentoollog.so.1", "libxentoollog1"),),
    "xenforeignmemory": (("libxenforeignmemory.so.1", "libxenforeignmemory1"),),
    "xenevtchn": (("libxenevtchn.so.1", "libxenevtchn1"),),
    "xentoolcore": (("libxentoolcore.so.1", "libxentoolcore1"),),
    "seccomp": (("libseccomp.so.2", "libseccomp2"),),  # of no Xen, and as stable
}


def _dlopen(soname: str, package: str) -> Any:  # noqa: ANN401 - cffi has no types
    """The library, or None when it is not installed."""
    try:
        return ffi.dlopen(soname)
    except OSError as error:
        # The same words after another soname are about a library that this one needs.
        if f"{soname}: cannot open shared object file" not in str(error):
            raise XenUnavailableError(
                f"{soname} cannot be loaded: {error}", hint=f"reinstall {package}", code="XLP104"
            ) from error
        return None


def load_ctrl(major: int, minor: int) -> CtrlLib:
    """libxenctrl of exactly this Xen version, whichever that is, if it has every function that we call.

    Raises:
        XenUnavailableError: it is not installed, with the Debian package's name and which others are; or it cannot be
            loaded; or it has no such function.
    """
    version = f"{major}.{minor}"
    library = _dlopen(f"libxenctrl.so.{version}", f"libxenmisc{version}")
    lacking = None if library is None else next((name for name in CTRL_CALLS if not has(library, name)), None)
    if library is not None and lacking is None:
        return cast("CtrlLib", library)
    from xlplug.xen import mismatch

    raise mismatch.absent(version) if lacking is None else mismatch.incomplete(version, lacking)


def has(library: Any, name: str) -> bool:  # noqa: ANN401 - cffi has no types
    """Whether a library has a function.  cffi raises its own error for a C name that is declared and not there."""
    try:
        getattr(library, name)
    except (AttributeError, ffi.error):
        return False
    return True


def load_stable(name: str) -> Any:  # noqa: ANN401 - cffi has no types
    """One of the libraries with a stable interface, by its name in `_STABLE`."""
    choices = _STABLE[name]
    for soname, package in choices:
        library = _dlopen(soname, package)
        if library is not None:
            return library
    (soname, package), *others = choices
    older = "".join(f", with an old Xen {other}" for _, other in others)
    raise XenUnavailableError(
        f"{soname} is not installed", hint=f"install it (Debian: {package}{older})", code="XLP104"
    )


def libc() -> LibC:
    """The C library, for the names that xen/_build.py declares of it."""
    return cast("LibC", ffi.dlopen(None))


class Handle(ABC):
    """What every open library handle is: a context manager that closes it.  No ``__del__``: close it, or use ``with``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the handle; doing it again does nothing."""


class QuietLogger(Handle):
    """A libxentoollog logger that lets only critical messages through; a context manager.

    libxenctrl's default logger writes to stderr ("xc: error: …"), beside the one line that we print.  With ``verbose`` all
    that the libraries say goes there.
    """

    verbose = False  #: of all that are made from now on

    def __init__(self) -> None:
        self._lib = cast("ToollogLib", load_stable("xentoollog"))
        level = self._lib.XTL_DEBUG if self.verbose else self._lib.XTL_CRITICAL
        self.logger = self._lib.xtl_createlogger_stdiostream(libc().stderr, level, 0)
        if not self.logger:
            raise MemoryError

    def close(self) -> None:
        """Free the logger, after everything that was opened with it; doing it again does nothing."""
        if self.logger:
            self._lib.xtl_logger_destroy(ffi.cast("struct xentoollog_logger *", self.logger))
            self.logger = ffi.NULL


class StableHandle(Handle):
    """A handle of a stable library, opened with the two arguments that all of them take: a logger, and no flags.

    ``name`` is the library's, and the prefix of its functions; ``module`` the kernel's that serves it.

    Raises:
        XenUnavailableError: the library is absent, or this is not a place to call Xen from.
    """

    def __init__(self, name: str, module: str = "xen-privcmd") -> None:
        self._lib: Any = load_stable(name)
        self._quiet = QuietLogger()
        self._close = getattr(self._lib, f"{name}_close")
        opener = getattr(self._lib, f"{name}_open")
        self._handle = opener(ffi.cast("struct xentoollog_logger *", self._quiet.logger), 0)
        if not self._handle:
            number = ffi.errno
            self._quiet.close()
            hint = f"load the driver: modprobe {module}" if number == errno.ENOENT else "run it as root in dom0"
            raise XenUnavailableError(f"lib{name} cannot reach Xen ({_errno_name(number)})", hint=hint, code="XLP107")

    def close(self) -> None:
        """Close the handle; doing it again does nothing."""
        if self._handle:
            self._close(self._handle)
            self._handle = ffi.NULL
            self._quiet.close()


def _errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def check(call: str, result: int, detail: Callable[[], str] | str = "", *, hint: str = "") -> int:
    """``result`` unless the call failed; errno is read at once, before anything else can change it.

    Xen's libraries answer -1 with errno.  Anything below is -errno itself: errno then is of some earlier call.

    Raises:
        XenError: the call failed.
    """
    number = ffi.errno
    if result >= 0:
        return result
    _fail(call, number if result == -1 else -result, detail, hint)


def _fail(call: str, number: int, detail: Callable[[], str] | str, hint: str) -> NoReturn:
    text = detail() if callable(detail) else detail
    raise XenError(call, number, text, hint=hint or _HINTS.get(number, ""))


_HINTS = {
    errno.EPERM: "dom0 itself must hold the range, and nothing may map it twice; look at 'xl dmesg'",
    errno.ESRCH: "no such domain; see 'xl list'",
    errno.EACCES: "the XSM policy forbids it; look at 'xl dmesg'",  # another Xen's library was found out on opening
    errno.EBUSY: "another mapping is in the way, or the domain is at its memory limit; look at 'xl dmesg'",
}
