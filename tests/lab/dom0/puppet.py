# SPDX-License-Identifier: LGPL-2.1-only
"""A guest that does what the test says, one instruction at a time, and the devices of the lab's machine that it is given.

The guest (tests/lab/stubdom/puppet.S) asks at its own ports what to do; an ioreq server in the test's process answers.  An
access that nobody answers leaves that vCPU waiting, and the test sees that it does.
"""

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab.dom0.conftest import Guests, sh
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.evtchn import EventChannels
from xlplug.xen.foreignmemory import ForeignMemory
from xlplug.xen.ioreq import INVALIDATE, IoreqServer

PORTS, STRIDE = 0x2000, 0x20
BUFFER = 0x200000  #: guest memory that nothing else uses
#: In the order of puppet.S's table.
OPERATIONS = (
    "nothing read8 read16 read32 read64 write8 write16 write32 write64 in8 in16 in32 out8 out16 out32 "
    "movs_from movs_to movs_back ins8 ins32 outs8 outs32 stos32 xadd32 start_cpu hypercall_page hypercall "
    "reads32 writes32 ins_each32 moves32 hammer garbage"
).split()

#: Devices of the lab's machine (tests/lab/devices.py) by name.
EDU, TESTDEV, NE2K, RTL8139, EDU2 = (f"0000:00:{slot:02x}.0" for slot in range(0x10, 0x15))

HVM = 'firmware_override="/stubdom/puppet"\n'


@contextmanager
def living(folder: Path, extra: str = "") -> "Iterator[Puppet]":
    """A guest that waits for its first instruction; ``extra`` goes into its config."""
    guests = Guests(folder)
    domid, _ = guests.make(f"{HVM}{extra}")
    with Puppet(domid) as made:
        assert sh("xl", "unpause", str(domid)).returncode == 0
        yield made
    guests.destroy(domid)


class StuckError(Exception):
    """The vCPU does not go on."""


class Device(NamedTuple):
    """A PCI function as the guest addresses it."""

    puppet: "Puppet"
    slot: int
    function: int = 0

    def config(self, register: int, size: int, value: int | None = None, *, vcpu: int = 0) -> int:
        """Read config space, or write it, through cf8 and cfc."""
        return self.puppet.config(self.slot << 3 | self.function, register, size, value, vcpu=vcpu)

    def size(self, bar: int) -> int:
        """A BAR's size, as firmware finds it; leaves the register at 0."""
        register = 0x10 + 4 * bar
        before = self.config(register, 4)
        self.config(register, 4, 0xFFFFFFFF)
        mask = self.config(register, 4) & ~(3 if before & 1 else 0xF)
        self.config(register, 4, 0)
        return -mask & 0xFFFFFFFF

    def place(self, bar: int, address: int) -> None:
        """Program a BAR; decoding as it is."""
        self.config(0x10 + 4 * bar, 4, address & 0xFFFFFFFF)
        if address >> 32:
            self.config(0x14 + 4 * bar, 4, address >> 32)

    def decode(self, command: int) -> None:
        """The command register: 1 ports, 2 memory."""
        self.config(4, 2, command)


class Puppet:
    """Drives one guest; a context manager."""

    def __init__(self, domid: int) -> None:
        self.domid = domid
        self._devices, self._memory, self._channels = DeviceModel(), ForeignMemory(), EventChannels()
        self.server = IoreqServer(domid, self._devices, self._memory, self._channels)
        self.server.map_range(PORTS, PORTS + 0xFFF, memory=False)
        self.server.enable()
        self._ports = {vcpu: local for local, vcpu in self.server._vcpus.items()}
        self._asking: set[int] = set()
        self._answers: dict[int, list[int]] = {}
        self._results: dict[int, list[int]] = {}

    def __enter__(self) -> "Puppet":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        for handle in (self._channels, self._memory, self._devices):
            handle.close()

    # one instruction

    def begin(self, operation: str, address: int = 0, value: int = 0, count: int = 0, *, vcpu: int = 0) -> None:
        """Have a vCPU start something; `finish` waits for its end."""
        self._until(lambda: vcpu in self._asking, 20, f"vCPU {vcpu} does not ask what to do")
        self._asking.discard(vcpu)
        self._results[vcpu] = []
        self._answers[vcpu] = [address & 0xFFFFFFFF, value & 0xFFFFFFFF, count]
        self._answer(vcpu, OPERATIONS.index(operation))

    def finish(self, *, vcpu: int = 0, seconds: float = 20) -> int:
        """The result of what was begun."""
        self._until(lambda: self.finished(vcpu), seconds, f"vCPU {vcpu} does not go on")
        low, high = self._results[vcpu]
        return high << 32 | low

    def finished(self, vcpu: int) -> bool:
        return len(self._results[vcpu]) == 2

    def do(self, operation: str, address: int = 0, value: int = 0, count: int = 0, *, vcpu: int = 0) -> int:
        """Begin and finish; 64 bits, of which the upper half is of interest for read64 only."""
        self.begin(operation, address, value, count, vcpu=vcpu)
        result = self.finish(vcpu=vcpu)
        return result if operation == "read64" else result & 0xFFFFFFFF

    def waiting(self, vcpu: int = 0, seconds: float = 0.3) -> bool:
        """Whether a vCPU stands still."""
        try:
            self.finish(vcpu=vcpu, seconds=seconds)
        except StuckError:
            return True
        return False

    # conveniences

    def config(self, devfn: int, register: int, size: int, value: int | None = None, *, vcpu: int = 0) -> int:
        self.do("out32", 0xCF8, 0x80000000 | devfn << 8 | register & 0xFC, vcpu=vcpu)
        verb, number = ("in", 0) if value is None else ("out", value)
        return self.do(f"{verb}{8 * size}", 0xCFC + (register & 3), number, vcpu=vcpu) & ((1 << 8 * size) - 1)

    def read(self, address: int, size: int = 4, *, vcpu: int = 0) -> int:
        return self.do(f"read{8 * size}", address, vcpu=vcpu) & ((1 << 8 * size) - 1)

    def write(self, address: int, value: int, size: int = 4, *, vcpu: int = 0) -> None:
        self.do(f"write{8 * size}", address, value, value >> 32, vcpu=vcpu)

    def port(self, port: int, size: int = 1, value: int | None = None) -> int:
        verb, number = ("in", 0) if value is None else ("out", value)
        return self.do(f"{verb}{8 * size}", port, number) & ((1 << 8 * size) - 1)

    def start_cpu(self, vcpu: int) -> None:
        """Start a vCPU, and have it do nothing once: the first answer to a vCPU that was just started has been seen to get lost."""
        self.do("start_cpu", 0, vcpu)
        self.do("nothing", vcpu=vcpu)

    def memory(self, address: int, data: bytes | None = None, *, size: int = 0) -> bytes:
        """The guest's memory, read or written from dom0."""
        page, within = divmod(address, 4096)
        with self._memory.map(self.domid, [page]) as pages:
            if data is not None:
                pages.data[within : within + len(data)] = data
            return bytes(pages.data[within : within + (size or len(data or b""))])

    # the vCPUs' ports

    def _until(self, reached, seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            left = deadline - time.monotonic()
            if left <= 0:
                raise StuckError(f"{complaint} within {seconds} s")
            if select.select([self.server.fileno()], [], [], left)[0]:
                self.serve()

    def serve_for(self, seconds: float) -> None:
        """Answer what comes in that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.server.fileno()], [], [], left)[0]:
                self.serve()

    def serve(self) -> None:
        """Answer one event, which is there."""
        port = self._channels.pending()
        self._channels.unmask(port)
        self._look(self.server._vcpus[port])

    def _look(self, vcpu: int) -> None:
        request = self.server.slots.take(vcpu)
        if request is None:
            return
        if request.kind == INVALIDATE:
            self._answer(vcpu, 0)
            return
        which = request.addr - PORTS - STRIDE * vcpu
        if request.read and which == 0:
            self._asking.add(vcpu)
        elif vcpu not in self._answers:  # it ran before we came, and is amid a command that nobody gave
            self._answer(vcpu, 0 if request.read else None)
        elif request.read:
            self._answer(vcpu, self._answers[vcpu][which // 4 - 1])
        else:
            self._results[vcpu].append(request.data & 0xFFFFFFFF)
            self._answer(vcpu, None)

    def _answer(self, vcpu: int, value: int | None) -> None:
        self.server.slots.answer(vcpu, value)
        self._channels.notify(self._ports[vcpu])


def assignable(*hosts: str) -> None:
    """Bind devices to pciback."""
    sh("modprobe", "xen-pciback")
    for host in hosts:
        if not Path(f"/sys/bus/pci/drivers/pciback/{host}").exists():
            done = sh("xl", "pci-assignable-add", host)
            assert Path(f"/sys/bus/pci/drivers/pciback/{host}").exists(), done.stderr
