# SPDX-License-Identifier: LGPL-2.1-only
"""libxenstore, as far as the package needs it."""

import errno
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

from xlplug.model.errors import StoreError, XenUnavailableError
from xlplug.model.hypervisor import Nodes
from xlplug.xen.alive import silent
from xlplug.xen.lib import Handle, ffi, libc, load_stable
from xlplug.xen.protocols import CData, LibC, StoreLib

__all__ = ["XenStore"]

T = TypeVar("T")

_PERM_NONE, _PERM_READ = 0, 1  # Source: tools/include/xenstore_lib.h, enum xs_perm_type
_XBT_NULL = 0  # no transaction.  Source: tools/include/xenstore.h
#: A transaction is tried this often when others change what it has read; each try takes less than a millisecond.
_TRIES = 1000


def _text(pointer: Any) -> str:  # noqa: ANN401 - cffi has no types
    data: Any = ffi.string(pointer)
    return str(data, "utf-8", "surrogateescape")


class _Nodes:
    """Reading and writing nodes, outside a transaction or within one."""

    _lib: StoreLib
    _libc: LibC
    _handle: CData
    _transaction = _XBT_NULL

    def read(self, path: str) -> str | None:
        length = ffi.new("unsigned int *")
        data = self._lib.xs_read(self._handle, self._transaction, path.encode(), length)
        if not data:
            _absent("read", path)
            return None
        try:
            return bytes(ffi.buffer(data, length[0])).decode("utf-8", "surrogateescape")
        finally:
            self._libc.free(data)

    def list(self, path: str) -> "list[str]":
        count = ffi.new("unsigned int *")
        names = self._lib.xs_directory(self._handle, self._transaction, path.encode(), count)
        if not names:
            _absent("list", path)
            return []
        try:
            return [_text(names[i]) for i in range(count[0])]
        finally:
            self._libc.free(names)

    def write(self, path: str, value: str) -> None:
        data = value.encode("utf-8", "surrogateescape")
        if not self._lib.xs_write(self._handle, self._transaction, path.encode(), data, len(data)):
            _fail("write", path, ffi.errno)

    def remove(self, path: str) -> None:
        if not self._lib.xs_rm(self._handle, self._transaction, path.encode()):
            _absent("remove", path)


class _Transaction(_Nodes):
    """The nodes as a transaction sees them."""

    def __init__(self, lib: StoreLib, libc: LibC, handle: CData, number: int) -> None:
        self._lib = lib
        self._libc = libc
        self._handle = handle
        self._transaction = number


class XenStore(_Nodes, Handle):
    """A connection to xenstored; a context manager, to be closed.

    Raises:
        XenUnavailableError: the library is absent or xenstored does not answer.
    """

    def __init__(self) -> None:
        self._lib = cast("StoreLib", load_stable("xenstore"))
        self._libc = libc()
        self._handle = ffi.NULL
        number = silent()
        if not number:
            self._handle = self._lib.xs_open(0)
            number = ffi.errno
        if not self._handle:
            name = errno.errorcode.get(number, str(number))
            hint = "start it: systemctl start xenstored (Debian: xen)"
            if number == errno.ETIMEDOUT:
                hint = "nothing has answered for ten seconds, and xl waits too; see 'systemctl status xenstored' (Debian: xen)"
            raise XenUnavailableError(f"xenstored cannot be reached ({name})", hint=hint, code="XLP109")

    def close(self) -> None:
        """Close the connection; doing it again does nothing."""
        if self._handle:
            self._lib.xs_close(self._handle)
            self._handle = ffi.NULL

    def atomically(self, change: Callable[[Nodes], T]) -> T:
        for _ in range(_TRIES):
            number = self._lib.xs_transaction_start(self._handle)
            if number == _XBT_NULL:
                _fail("start", "a transaction", ffi.errno)
            try:
                result = change(_Transaction(self._lib, self._libc, self._handle, number))
            except BaseException:
                self._lib.xs_transaction_end(self._handle, number, True)
                raise
            if self._lib.xs_transaction_end(self._handle, number, False):
                return result
            if ffi.errno != errno.EAGAIN:
                _fail("end", "a transaction", ffi.errno)
        _fail("end", "a transaction", errno.EAGAIN)

    def let_read(self, path: str, domid: int) -> None:
        """Let a domain read a node, and what is made below it later; dom0 owns it and alone writes it.

        Source: docs/misc/xenstore.txt, SET_PERMS: the first entry is the owner, and what all others may do.
        """
        permissions = ffi.new("struct xs_permissions[2]", [(0, _PERM_NONE), (domid, _PERM_READ)])
        if not self._lib.xs_set_permissions(self._handle, _XBT_NULL, path.encode(), permissions, 2):
            _fail("let another domain read", path, ffi.errno)

    def watch(self, path: str) -> None:
        """Ask for events on changes at and below a path, also ``@introduceDomain``; the first event comes at once."""
        if not self._lib.xs_watch(self._handle, path.encode(), path.encode()):
            _fail("watch", path, ffi.errno)

    def unwatch(self, path: str) -> None:
        """End a watch; nothing to do where there is none."""
        if not self._lib.xs_unwatch(self._handle, path.encode(), path.encode()):
            _absent("unwatch", path)

    def fileno(self) -> int:
        """The descriptor to poll for reading, once something is watched."""
        return self._lib.xs_fileno(self._handle)

    def changes(self) -> tuple[str, ...]:
        """The paths that have changed since, without waiting.

        Raises:
            StoreError: the connection is gone.
        """
        found = []
        while event := self._lib.xs_check_watch(self._handle):
            found.append(_text(event[0]))  # XS_WATCH_PATH.  Source: tools/include/xenstore_lib.h
            self._libc.free(event)
        if ffi.errno != errno.EAGAIN:
            _fail("watch", "xenstored", ffi.errno)
        return tuple(found)


def _absent(verb: str, path: str) -> None:
    """Pass where the node is not there; anything else is an error."""
    number = ffi.errno
    if number != errno.ENOENT:
        _fail(verb, path, number)


def _fail(verb: str, path: str, number: int) -> NoReturn:
    name = errno.errorcode.get(number, str(number))
    raise StoreError(f"xenstore: cannot {verb} {path}: {name}", hint="is xenstored running, and is this root in dom0?")
