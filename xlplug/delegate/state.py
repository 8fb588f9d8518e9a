# SPDX-License-Identifier: LGPL-2.1-only
"""What a delegate must leave behind for its successor: a small file in memory that outlives the process.

The process that serves has it mapped and may be killed at any instant; the next one goes on from it, and `xlplug verify`
reads in it what the guest has programmed.  Layout, little-endian:

    0    8 bytes  magic
    8    u32      the ioreq server's id + 1, 0 before there is one
    12   u32      how many functions
    16   u32      the process that serves, 0 before there is one
    64 + 512*i    function i: 256 bytes of config space as the guest sees it, then for each of 6 BARs three u64:
                  1 when Xen has been asked for its range, the range's first byte or port, and one past its last
"""

import mmap
import os
import struct
from typing import NamedTuple

from xlplug.delegate.config_space import CONFIG_BYTES
from xlplug.model.bar import BARS
from xlplug.model.errors import HostError
from xlplug.model.rangeset import Range

__all__ = ["FOLDER", "FunctionState", "Ranges", "State", "path_of"]

FOLDER = "/run/xlplug"
_MAGIC = b"xlplugd1"
_HEADER, _STRIDE, _ENTRY = 64, 512, 24


class FunctionState(NamedTuple):
    """One function: its 256 registers, and the ranges asked for by BAR.  Both are views: writing to them is lasting."""

    registers: memoryview
    ranges: "Ranges"


class Ranges:
    """The ranges that Xen has been asked for, by BAR."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __getitem__(self, bar: int) -> Range | None:
        asked, start, stop = struct.unpack_from("<QQQ", self._view, bar * _ENTRY)
        return Range(start, stop) if asked else None

    def set(self, bar: int, start: int, stop: int) -> None:
        """Written before Xen is asked, the mark last."""
        struct.pack_into("<QQ", self._view, bar * _ENTRY + 8, start, stop)
        struct.pack_into("<Q", self._view, bar * _ENTRY, 1)

    def clear(self, bar: int) -> None:
        """Written after Xen was asked to unmap."""
        struct.pack_into("<Q", self._view, bar * _ENTRY, 0)


def path_of(domid: int, folder: str = FOLDER) -> str:
    """Where a domain's delegate keeps its state."""
    return f"{folder}/dm-{domid}.state"


class State:
    """The file, mapped.  ``functions`` are in the order of the delegate's command line."""

    def __init__(self, fd: int, count: int | None = None) -> None:
        """Map an open file; with ``count``, make it a fresh one for that many functions.

        Raises:
            HostError: it is not such a file.
        """
        size = os.fstat(fd).st_size
        if count is not None:
            size = _HEADER + _STRIDE * count
            os.ftruncate(fd, size)
        if size < _HEADER:
            raise HostError(
                "not a delegate's state: too short", hint="stop the delegate and start it again", code="XLP715"
            )
        self._mapping = memoryview(mmap.mmap(fd, size))
        if count is not None:
            self._mapping[12:16] = struct.pack("<I", count)
            self._mapping[:8] = _MAGIC
        count = struct.unpack_from("<I", self._mapping, 12)[0]
        if self._mapping[:8] != _MAGIC or size != _HEADER + _STRIDE * count:
            raise HostError(
                "not a delegate's state, or of another version",
                hint="stop the delegate and start it again",
                code="XLP715",
            )
        self.functions = tuple(
            FunctionState(
                self._mapping[at : at + CONFIG_BYTES],
                Ranges(self._mapping[at + CONFIG_BYTES : at + CONFIG_BYTES + BARS * _ENTRY]),
            )
            for at in range(_HEADER, size, _STRIDE)
        )

    @property
    def server(self) -> int | None:
        """The ioreq server's id."""
        number = int(struct.unpack_from("<I", self._mapping, 8)[0])
        return number - 1 if number else None

    @server.setter
    def server(self, number: int) -> None:
        self._mapping[8:12] = struct.pack("<I", number + 1)

    @property
    def pid(self) -> int:
        """The process that serves, or served last."""
        return int(struct.unpack_from("<I", self._mapping, 16)[0])

    @pid.setter
    def pid(self, number: int) -> None:
        self._mapping[16:20] = struct.pack("<I", number)

    @classmethod
    def create(cls, path: str, count: int) -> "tuple[State, int]":
        """A new file that only root can open, and its descriptor; what was there is removed.

        Raises:
            HostError: it cannot be made.
        """
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            if os.path.lexists(path):
                os.unlink(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HostError(
                f"{path}: {error.strerror}", hint="is /run writable, and is this root?", code="XLP821"
            ) from error
        return cls(fd, count), fd

    @classmethod
    def read(cls, path: str) -> "State | None":
        """What a delegate has left or is writing; None when there is no such file.

        Raises:
            HostError: it cannot be read, or is not one.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}", hint="run xlplug as root in dom0", code="XLP821") from error
        try:
            return cls(fd)
        finally:
            os.close(fd)
