# SPDX-License-Identifier: LGPL-2.1-only
"""Giving up rights, for good: one domain only, nobody's user, no capabilities, few system calls.

What stays is what is open: the handles on Xen's drivers, restricted to one domain, and the BARs of the devices.  The filter is
made with libseccomp through cffi, as Xen's libraries are called: every Debian system has that library, because apt needs it, and
nothing has to be installed for it.
"""

import errno
import os
import pwd
from collections.abc import Iterable
from typing import Any

from xlplug.model.errors import HostError
from xlplug.xen.lib import check, ffi, libc, load_stable
from xlplug.xen.toolcore import restrict_all

__all__ = ["ALLOWED_CALLS", "ALLOWED_IOCTLS", "confine"]

_USER = "nobody"
_PR_SET_NO_NEW_PRIVS, _SYS_PRCTL = (
    38,
    157,
)  # Source: Linux, include/uapi/linux/prctl.h, arch/x86/entry/syscalls/syscall_64.tbl
_ALLOW, _ERRNO_EPERM = 0x7FFF0000, 0x00050000 | errno.EPERM  # Source: libseccomp, include/seccomp.h.in, SCMP_ACT_*

#: What serving needs: waiting, the event channel device (read, write), BARs of ports (pread64, pwrite64), the guest's pages
#: (mmap, munmap), Python's own memory, and ending.  write is also the log's.
ALLOWED_CALLS = (
    "poll", "ppoll", "read", "write", "pread64", "pwrite64", "mmap", "munmap", "mremap", "madvise", "brk", "close", "futex",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "clock_gettime", "clock_nanosleep", "getpid", "exit",
    "exit_group", "restart_syscall", "fstat", "newfstatat",
)  # fmt: skip
#: By its number, because the drivers have more powerful ones.  Source: Linux, include/uapi/xen/privcmd.h and evtchn.h.
ALLOWED_IOCTLS = {
    "IOCTL_PRIVCMD_DM_OP": 0x00105005,
    "IOCTL_PRIVCMD_MMAPBATCH_V2": 0x00205004,
    "IOCTL_EVTCHN_UNBIND": 0x00044503,
    "IOCTL_EVTCHN_NOTIFY": 0x00044504,
}


def confine(domid: int) -> None:
    """Keep nothing but what is open, for one domain.  Call it once, with all handles open and before serving.

    Raises:
        XenError, HostError: something could not be given up; then nothing must be served.
    """
    restrict_all(domid)
    try:
        account = pwd.getpwnam(_USER)
    except KeyError as error:
        raise HostError(
            f"the user '{_USER}' does not exist", hint=f"add it: useradd --system {_USER}", code="XLP706"
        ) from error
    os.chdir("/")
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)  # takes every capability with it: capabilities(7)
    numbers = (ffi.cast("long", number) for number in (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    check("prctl", libc().syscall(_SYS_PRCTL, *numbers), "PR_SET_NO_NEW_PRIVS")
    _filter(ALLOWED_CALLS, ALLOWED_IOCTLS.values())


def _filter(calls: Iterable[str], ioctls: Iterable[int]) -> None:
    """Let these system calls through; all others fail with EPERM, because killing us would stop the guest."""
    library: Any = load_stable("seccomp")
    context = library.seccomp_init(_ERRNO_EPERM)
    if not context:
        raise HostError("seccomp_init failed", hint="reinstall libseccomp2", code="XLP706")
    try:
        for name in calls:
            number = library.seccomp_syscall_resolve_name(name.encode())
            _done("seccomp_rule_add_array", library.seccomp_rule_add_array(context, _ALLOW, number, 0, ffi.NULL), name)
        number = library.seccomp_syscall_resolve_name(b"ioctl")
        for request in ioctls:
            only = ffi.new("struct scmp_arg_cmp *", (1, library.SCMP_CMP_EQ, request, 0))
            _done("seccomp_rule_add_array", library.seccomp_rule_add_array(context, _ALLOW, number, 1, only), "ioctl")
        _done("seccomp_load", library.seccomp_load(context), "")
    finally:
        library.seccomp_release(context)


def _done(call: str, result: int, detail: str) -> None:
    """libseccomp answers -errno."""
    if result < 0:
        raise HostError(
            f"{call} {detail}: {os.strerror(-result)}",
            hint="does the kernel have CONFIG_SECCOMP_FILTER?",
            code="XLP706",
        )
