# SPDX-License-Identifier: LGPL-2.1-only
"""libxenstore, as far as the package needs it."""

import errno
from typing import Any, NoReturn, cast

from xlplug.model.errors import StoreError, XenUnavailableError
from xlplug.xen.lib import Handle, ffi, libc, load_stable
from xlplug.xen.protocols import StoreLib

__all__ = ["XenStore"]

_XBT_NULL = 0  # no transaction.  Source: tools/include/xenstore.h


def _text(pointer: Any) -> str:  # noqa: ANN401 - cffi has no types
    data: Any = ffi.string(pointer)
    return str(data, "utf-8", "surrogateescape")


class XenStore(Handle):
    """A connection to xenstored; a context manager, to be closed.

    Raises:
        XenUnavailableError: the library is absent or xenstored does not answer.
    """

    def __init__(self) -> None:
        self._lib = cast("StoreLib", load_stable("xenstore"))
        self._libc = libc()
        self._handle = self._lib.xs_open(0)
        if not self._handle:
            name = errno.errorcode.get(ffi.errno, str(ffi.errno))
            raise XenUnavailableError(
                f"xenstored cannot be reached ({name})", hint="start it: systemctl start xenstored"
            )

    def close(self) -> None:
        """Close the connection; doing it again does nothing."""
        if self._handle:
            self._lib.xs_close(self._handle)
            self._handle = ffi.NULL

    def read(self, path: str) -> str | None:
        length = ffi.new("unsigned int *")
        data = self._lib.xs_read(self._handle, _XBT_NULL, path.encode(), length)
        if not data:
            self._absent("read", path)
            return None
        try:
            return bytes(ffi.buffer(data, length[0])).decode("utf-8", "surrogateescape")
        finally:
            self._libc.free(data)

    def list(self, path: str) -> list[str]:
        count = ffi.new("unsigned int *")
        names = self._lib.xs_directory(self._handle, _XBT_NULL, path.encode(), count)
        if not names:
            self._absent("list", path)
            return []
        try:
            return [_text(names[i]) for i in range(count[0])]
        finally:
            self._libc.free(names)

    def write(self, path: str, value: str) -> None:
        data = value.encode("utf-8", "surrogateescape")
        if not self._lib.xs_write(self._handle, _XBT_NULL, path.encode(), data, len(data)):
            self._fail("write", path, ffi.errno)

    def remove(self, path: str) -> None:
        if not self._lib.xs_rm(self._handle, _XBT_NULL, path.encode()):
            self._absent("remove", path)

    def watch(self, path: str) -> None:
        """Ask to be told of changes at and below a path; the first is told at once.  ``@introduceDomain`` and the like too."""
        if not self._lib.xs_watch(self._handle, path.encode(), path.encode()):
            self._fail("watch", path, ffi.errno)

    def unwatch(self, path: str) -> None:
        """Ask for it no more; nothing to do where it was not asked."""
        if not self._lib.xs_unwatch(self._handle, path.encode(), path.encode()):
            self._absent("unwatch", path)

    def fileno(self) -> int:
        """To be polled for reading, once something is watched."""
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
            self._fail("watch", "xenstored", ffi.errno)
        return tuple(found)

    def _absent(self, verb: str, path: str) -> None:
        """Pass where the node is not there; anything else is an error."""
        number = ffi.errno
        if number != errno.ENOENT:
            self._fail(verb, path, number)

    def _fail(self, verb: str, path: str, number: int) -> NoReturn:
        name = errno.errorcode.get(number, str(number))
        raise StoreError(
            f"xenstore: cannot {verb} {path}: {name}", hint="is xenstored running, and is this root in dom0?"
        )
