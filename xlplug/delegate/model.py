# SPDX-License-Identifier: LGPL-2.1-only
"""The device model: what a guest's request means, and which ranges Xen must send here.

`Model.answer` never raises and always answers: a request that is not understood, or that a device refuses, reads all ones
or is dropped, and is logged once.
"""

import errno
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from xlplug.delegate.config_space import ConfigSpace, Decoded
from xlplug.delegate.guest_memory import GuestMemory
from xlplug.delegate.host_device import AbsentBar, HostBar
from xlplug.delegate.state import Ranges
from xlplug.model.bar import Bar
from xlplug.model.bdf import Bdf
from xlplug.model.errors import XenError
from xlplug.xen.ioreq import ALL_ONES, COPY, INVALIDATE, PCI_CONFIG, PIO, TIMEOFFSET, Request

__all__ = ["Function", "Log", "Model", "Server", "bars_without_device"]

Log = Callable[[str], None]
#: Elements of one request: Xen cuts a string instruction at the end of a page.  Source: xen/arch/x86/hvm/emulate.c.
_COUNT_MAX = 4096
_SIZES = (1, 2, 4, 8)
_WRAP = 1 << 64
_LINES = 64  # of the log, at most


class Function(NamedTuple):
    """A delegated function: its addresses on the host and in the guest, its registers, its BARs by number, its ranges in Xen."""

    host: Bdf
    guest: Bdf
    config: ConfigSpace
    bars: dict[int, HostBar]
    ranges: Ranges


class Server(Protocol):
    """What of `xlplug.xen.ioreq.IoreqServer` the model needs."""

    def map_range(self, first: int, last: int, *, memory: bool) -> None: ...
    def unmap_range(self, first: int, last: int, *, memory: bool) -> None: ...


class _Mapped(NamedTuple):
    """A BAR whose range Xen sends here."""

    function: Function
    decoded: Decoded


class Model:
    """Serves the functions of one guest."""

    def __init__(self, functions: Sequence[Function], server: Server, memory: GuestMemory, log: Log) -> None:
        self._functions = {function.guest.sbdf: function for function in functions}
        self._server, self._memory = server, memory
        self._mapped: dict[tuple[int, int], _Mapped] = {}
        self._log, self._logged = log, set[str]()

    # ranges

    def sync(self) -> None:
        """Make Xen's ranges those that the guest has programmed: first unmap what is no longer so, then map.

        A BAR that overlaps one of ours that is already there waits until that one moves: Xen refuses it with EEXIST, and the
        device that was there first keeps answering.
        """
        wanted = {
            (sbdf, decoded.bar.number): decoded
            for sbdf, function in self._functions.items()
            for decoded in function.config.decoded()
        }
        for key, mapped in list(self._mapped.items()):
            if wanted.get(key) != mapped.decoded:
                del self._mapped[key]
                self._unmap(mapped.function, mapped.decoded)
        for key, decoded in wanted.items():
            if key not in self._mapped and self._map(self._functions[key[0]], decoded):
                self._mapped[key] = _Mapped(self._functions[key[0]], decoded)

    def take_over(self) -> None:
        """Go on with the ranges that a dead process has left in Xen: keep those that are still wanted, then `sync`.

        A range is noted before Xen is asked for it, so a range that is noted may be missing, and none is there that is not noted.
        """
        for sbdf, function in self._functions.items():
            wanted = {decoded.bar.number: decoded for decoded in function.config.decoded()}
            for bar in function.config.bars:
                noted = function.ranges[bar.number]
                if noted is None:
                    continue
                left = Decoded(bar, *noted)
                if wanted.get(bar.number) == left:
                    self._try(self._server.map_range, left, (errno.EEXIST,))  # EEXIST: it is there
                    self._mapped[sbdf, bar.number] = _Mapped(function, left)
                else:
                    self._unmap(function, left)
        self.sync()

    def _map(self, function: Function, decoded: Decoded) -> bool:
        function.ranges.set(decoded.bar.number, decoded.start, decoded.stop)
        if self._try(self._server.map_range, decoded, (errno.EEXIST,)):
            return True
        function.ranges.clear(decoded.bar.number)
        return False

    def _unmap(self, function: Function, decoded: Decoded) -> None:
        self._try(self._server.unmap_range, decoded, (errno.ENOENT,))
        function.ranges.clear(decoded.bar.number)

    def _try(self, call: Callable[..., None], decoded: Decoded, expected: tuple[int, ...]) -> bool:
        try:
            call(decoded.start, decoded.stop - 1, memory=decoded.bar.is_memory)
        except XenError as error:
            if error.errno not in expected:
                self._once(str(error))
            return False
        return True

    def remove(self, host: Bdf) -> None:
        """The host's device is gone: what belongs to it reads all ones from now on."""
        for sbdf, function in self._functions.items():
            if function.host == host:
                absent = Function(
                    host, function.guest, function.config, dict.fromkeys(function.bars, AbsentBar()), function.ranges
                )
                self._functions[sbdf] = absent
                for key, mapped in self._mapped.items():
                    if key[0] == sbdf:
                        self._mapped[key] = mapped._replace(function=absent)

    # requests

    def answer(self, request: Request) -> int | None:
        """The value that is read; None where it went to the guest's memory."""
        try:
            if request.kind == INVALIDATE:
                self._memory.forget()
                return 0
            if request.kind == TIMEOFFSET:
                return 0
            return self._carry_out(request)
        except (XenError, OSError, ValueError, OverflowError) as error:
            self._once(f"{_words(request)}: {error}")
            return None if request.pointer else ALL_ONES

    def _carry_out(self, request: Request) -> int | None:
        """All elements of a request, in order."""
        size = request.size
        if request.kind not in (PIO, COPY, PCI_CONFIG) or size not in _SIZES or not 1 <= request.repeat <= _COUNT_MAX:
            raise ValueError("not a request that a device model is sent")
        step = -size if request.backwards else size
        moves = step if request.kind == COPY else 0
        value = ALL_ONES
        for i in range(request.repeat):
            address = (request.addr + i * moves) % _WRAP
            where = (request.data + i * step) % _WRAP
            if request.read:
                value = self._read(request.kind, address, size)
                if request.pointer:
                    self._memory.write(where, size, value)
            else:
                self._write(
                    request.kind, address, size, self._memory.read(where, size) if request.pointer else request.data
                )
        return None if request.pointer else value

    def _read(self, kind: int, address: int, size: int) -> int:
        if kind == PCI_CONFIG:
            function = self._functions.get(address >> 32)
            register = address & 0xFFFFFFFF
            return ALL_ONES if function is None or register > 0xFF else function.config.read(register, size)
        found = self._find(kind, address, size)
        return ALL_ONES if found is None else found[0].read(found[1], size)

    def _write(self, kind: int, address: int, size: int, value: int) -> None:
        if kind == PCI_CONFIG:
            function = self._functions.get(address >> 32)
            register = address & 0xFFFFFFFF
            if function is not None and register <= 0xFF and function.config.write(register, size, value):
                self.sync()
            return
        found = self._find(kind, address, size)
        if found is not None:
            found[0].write(found[1], size, value)

    def _find(self, kind: int, address: int, size: int) -> tuple[HostBar, int] | None:
        """The BAR that holds all of an access, and the offset in it."""
        for function, (bar, start, stop) in self._mapped.values():
            if start <= address and address + size <= stop and bar.is_memory == (kind == COPY):
                return function.bars[bar.number], address - start
        return None

    def _once(self, text: str) -> None:
        """A line in the log, and the same one only once."""
        if text not in self._logged and len(self._logged) < _LINES:
            self._logged.add(text)
            self._log(text if len(self._logged) < _LINES else "more of this is not logged")


def _words(request: Request) -> str:
    kind = {PIO: "port", COPY: "memory", PCI_CONFIG: "config"}.get(request.kind, f"type {request.kind}")
    verb = "read" if request.read else "write"
    return f"vCPU {request.vcpu}: {kind} {verb} at {request.addr:x}, {request.repeat} times {request.size} bytes"


def bars_without_device(bars: Sequence[Bar]) -> dict[int, HostBar]:
    """For a function whose host device is gone already."""
    return {bar.number: AbsentBar() for bar in bars}
