# SPDX-License-Identifier: LGPL-2.1-only
"""The delegate's model on ioreq servers in memory: every access, every move, and what no guest should send."""

import errno
import os
import random
from collections.abc import Iterator

import pytest

from tests.contract.ioreq_in_memory import Hub, MemChannels, MemDevices, MemMemory
from xlplug.delegate.config_space import CONFIG_BYTES, ConfigSpace
from xlplug.delegate.guest_memory import GuestMemory
from xlplug.delegate.host_device import HostBar
from xlplug.delegate.model import Function, Model
from xlplug.delegate.state import State
from xlplug.model.bar import IO, MEMORY32, MEMORY64, Bar
from xlplug.model.bdf import Bdf
from xlplug.model.errors import XenError
from xlplug.model.rangeset import RangeSet
from xlplug.xen import ioreq
from xlplug.xen.ioreq import COPY, INVALIDATE, PCI_CONFIG, PIO, TIMEOFFSET, IoreqServer, Request

DOMID = 5
HEADER = bytes.fromhex("3412111100000000000000ff") + bytes(52)
BARS = (
    Bar(0, MEMORY32, 0xFEA00000, 0xFEA01000),
    Bar(1, IO, 0xC000, 0xC100),
    Bar(2, MEMORY64, 1 << 36, (1 << 36) + (1 << 20)),
)
ONE, TWO = Bdf(0, 0, 0x10, 0), Bdf(0, 0, 0x11, 0)
AT, PORTS = 0xF0000000, 0xD000


class Memory(HostBar):
    """A BAR that remembers."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.accesses: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append(("r", offset, size))
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append(("w", offset, size))
        self.data[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


class Broken(HostBar):
    """A device that does not answer."""

    def read(self, offset: int, size: int) -> int:
        raise OSError(errno.ENODEV, "No such device")

    def write(self, offset: int, size: int, value: int) -> None:
        raise OSError(errno.ENODEV, "No such device")


class Bench:
    """Two functions of one guest, and the guest."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.hub.domain(DOMID, vcpus=2)
        self.devices, self.memory = MemDevices(self.hub), MemMemory(self.hub)
        self.channels = MemChannels(self.hub)
        self.fd = os.memfd_create("state")
        self.state = State(self.fd, 2)
        self.log: list[str] = []
        self.start()

    def start(self, adopt: int | None = None) -> None:
        self.server = IoreqServer(DOMID, self.devices, self.memory, self.channels, adopt)
        self.functions = []
        for guest, kept in zip((ONE, TWO), self.state.functions, strict=True):
            config = ConfigSpace(HEADER, BARS, kept.registers)
            bars: dict[int, HostBar] = {bar.number: Memory(bar.size) for bar in BARS}
            self.functions.append(Function(Bdf(0, 3, guest.device, 0), guest, config, bars, kept.ranges))
        self.guest_memory = GuestMemory(DOMID, self.memory)
        self.model = Model(self.functions, self.server, self.guest_memory, self.log.append)
        if adopt is None:
            for function in self.functions:
                self.server.claim_pci(function.guest.sbdf)
        self.server.enable()
        if adopt is None:
            self.serve()

    def serve(self) -> None:
        while self.hub.events:
            self.server.serve(self.model.answer)

    def do(self, kind: int, addr: int, size: int, value: int | None = None, **options: int) -> int:
        access = self.hub.access(DOMID, kind, addr, size, value, **options)
        self.serve()
        result = self.hub.result(access)
        assert result is not None, "the vCPU waits"
        return result & ((1 << 8 * size) - 1)

    def config(self, register: int, size: int = 4, value: int | None = None, guest: Bdf = ONE) -> int:
        return self.do(PCI_CONFIG, guest.sbdf << 32 | register, size, value)

    def place(self, number: int, address: int, guest: Bdf = ONE) -> None:
        self.config(0x10 + 4 * number, 4, address & 0xFFFFFFFF, guest)
        if address >> 32:
            self.config(0x14 + 4 * number, 4, address >> 32, guest)

    @property
    def sent(self) -> tuple[RangeSet, RangeSet]:
        info = self.hub.infos(DOMID)[-1]
        return info.memory, info.ports

    def bar(self, number: int = 0, guest: Bdf = ONE) -> Memory:
        function = next(function for function in self.functions if function.guest == guest)
        bar = function.bars[number]
        assert isinstance(bar, Memory)
        return bar


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(ioreq, "_FETCH_SECONDS", 0)  # no vCPU here fetches an answer
    made = Bench()
    yield made
    made.server.close()
    made.guest_memory.forget()
    assert made.memory.mapped == 0
    assert [info.id for info in made.hub.infos(DOMID)] == [0]
    made.channels.close()
    os.close(made.fd)


def at(start: int, size: int) -> RangeSet:
    return RangeSet([(start, start + size)])


def test_ranges_follow_the_registers(bench: Bench) -> None:
    bench.place(0, AT)
    bench.place(1, PORTS)
    assert bench.sent == (RangeSet(), RangeSet())
    bench.config(4, 2, 3)
    assert bench.sent == (at(AT, 0x1000), at(PORTS, 0x100))
    bench.place(0, AT + 0x1000)
    bench.place(2, 1 << 33)
    assert bench.sent == (at(AT + 0x1000, 0x1000) | at(1 << 33, 1 << 20), at(PORTS, 0x100))
    bench.config(4, 1, 1)
    assert bench.sent == (RangeSet(), at(PORTS, 0x100))
    bench.config(4, 1, 0)
    assert bench.sent == (RangeSet(), RangeSet())


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", [0, 1, 3, 0xFF8])
def test_every_width_and_alignment_is_one_access_of_that_width(bench: Bench, size: int, offset: int) -> None:
    bench.place(0, AT)
    bench.config(4, 2, 2)
    value = 0x8877665544332211 & ((1 << 8 * size) - 1)
    bench.do(COPY, AT + offset, size, value)
    assert bench.do(COPY, AT + offset, size) == value
    assert bench.bar().accesses == [("w", offset, size), ("r", offset, size)]


def test_what_crosses_the_end_of_a_bar_reaches_neither(bench: Bench) -> None:
    """Two BARs that touch are one range to Xen, so such an access does come."""
    bench.place(0, AT)
    bench.config(4, 2, 2)
    bench.place(0, AT + 0x1000, TWO)
    bench.config(4, 2, 2, TWO)
    assert bench.do(COPY, AT + 0xFFE, 4) == 0xFFFFFFFF
    bench.do(COPY, AT + 0xFFE, 4, 0)
    assert bench.bar().accesses == bench.bar(guest=TWO).accesses == []


def test_two_functions_at_one_address(bench: Bench) -> None:
    for guest in (ONE, TWO):
        bench.place(0, AT, guest)
        bench.config(4, 2, 2, guest)
    bench.do(COPY, AT, 4, 1)
    assert (bench.bar().accesses, bench.bar(guest=TWO).accesses) == ([("w", 0, 4)], [])
    bench.config(4, 2, 0)
    bench.do(COPY, AT, 4, 1)
    assert bench.bar(guest=TWO).accesses == [("w", 0, 4)]
    bench.place(0, AT + 0x1000, TWO)
    assert bench.sent[0] == at(AT + 0x1000, 0x1000)
    assert bench.log == [], "that is the guest's own doing"


def test_strings_in_both_directions(bench: Bench) -> None:
    bench.place(0, AT)
    bench.place(1, PORTS)
    bench.config(4, 2, 3)
    for gfn in (8, 9):
        bench.hub.ram(DOMID, gfn)
    bench.guest_memory.write(0x8FFC, 8, 0x2222222211111111)
    bench.do(COPY, AT + 8, 4, 0, data=0x8FFC, repeat=2, pointer=True)
    assert bench.bar().data[8:16] == bytes.fromhex("1111111122222222")
    bench.do(COPY, AT + 12, 4, data=0x9010, repeat=2, pointer=True, backwards=True)
    assert bench.guest_memory.read(0x900C, 8) == 0x2222222211111111
    bench.bar(1).data[4] = 0x5A
    bench.do(PIO, PORTS + 4, 1, data=0x9020, repeat=3, pointer=True)
    assert bench.guest_memory.read(0x9020, 4) == 0x5A5A5A
    bench.do(COPY, AT + 0x20, 4, 0x77, repeat=3)
    assert bench.bar().data[0x20:0x2C] == bytes.fromhex("77000000") * 3
    bench.do(PCI_CONFIG, ONE.sbdf << 32, 2, data=0x9030, repeat=2, pointer=True)
    assert bench.guest_memory.read(0x9030, 4) == 0x12341234


def test_a_string_without_memory_behind_it_is_dropped_and_logged_once(bench: Bench) -> None:
    bench.place(0, AT)
    bench.config(4, 2, 2)
    for _ in range(3):
        bench.do(COPY, AT, 4, data=0x7000_0000, repeat=4, pointer=True)
    (line,) = bench.log
    assert line.startswith(
        "vCPU 0: memory read at f0000000, 4 times 4 bytes: xenforeignmemory_map domid=5 gfn=0x70000: EINVAL"
    )


def test_a_change_of_the_guest_s_memory_lets_go_of_it(bench: Bench) -> None:
    bench.hub.ram(DOMID, 3)
    bench.guest_memory.read(0x3000, 4)
    kept = bench.memory.mapped
    bench.do(INVALIDATE, 0, 4)
    assert bench.memory.mapped == kept - 1


def test_many_pages_do_not_stay(bench: Bench) -> None:
    for gfn in range(300):
        bench.hub.ram(DOMID, gfn)
    for gfn in range(299):
        bench.guest_memory.write(gfn * 4096 + 4094, 4, gfn)
        assert bench.guest_memory.read(gfn * 4096 + 4094, 4) == gfn
    assert bench.memory.mapped <= 1 + 64


def test_a_device_that_does_not_answer(bench: Bench) -> None:
    bench.functions[0].bars[0] = Broken()
    bench.place(0, AT)
    bench.config(4, 2, 2)
    assert bench.do(COPY, AT, 4) == 0xFFFFFFFF
    bench.do(COPY, AT, 4, 5)
    assert [line.rpartition(":")[2] for line in bench.log] == [" [Errno 19] No such device"] * 2


def test_a_device_that_is_gone(bench: Bench) -> None:
    bench.place(0, AT)
    bench.config(4, 2, 2)
    bench.do(COPY, AT, 4, 5)
    bench.model.remove(bench.functions[0].host)
    assert bench.do(COPY, AT, 4) == 0xFFFFFFFF
    assert bench.config(0) == 0x11111234, "its registers stay"
    bench.place(0, AT + 0x1000)
    assert bench.do(COPY, AT + 0x1000, 8) == (1 << 64) - 1
    assert bench.bar().accesses == [("w", 0, 4)]
    assert bench.config(0, guest=TWO) == 0x11111234


IMPOSSIBLE = [
    {"size": 0}, {"size": 3}, {"size": 16}, {"size": 0xFFFFFFFF}, {"repeat": 0}, {"repeat": 4097}, {"repeat": 0xFFFFFFFF},
    {"kind": 3}, {"kind": 255}, {"kind": TIMEOFFSET}, {"addr": (1 << 64) - 1}, {"addr": (1 << 64) - 1, "repeat": 4096},
    {"kind": PCI_CONFIG, "addr": (1 << 64) - 1}, {"kind": PCI_CONFIG, "addr": ONE.sbdf << 32 | 0xFFFFFFFF},
    {"kind": PCI_CONFIG, "addr": ONE.sbdf << 32 | 0xFF}, {"pointer": True, "data": (1 << 64) - 1},
    {"pointer": True, "data": 1 << 60, "repeat": 4096}, {"pointer": True, "data": 0, "backwards": True, "repeat": 9},
    {"kind": PIO, "addr": 0xFFFFFFFFFF}, {"kind": PIO, "size": 8, "addr": PORTS},
]  # fmt: skip


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=str)
def test_requests_that_cannot_be_are_answered(bench: Bench, wrong: dict[str, int], read: bool) -> None:
    """Only Xen writes the page; whoever is confused, no vCPU waits for ever."""
    bench.place(0, AT)
    bench.place(1, PORTS)
    bench.config(4, 2, 3)
    bench.hub.ram(DOMID, 0)
    request = {"kind": COPY, "addr": AT, "size": 4, "data": 7} | wrong
    bench.hub.put(DOMID, bench.server.id, 1, read=read, **request)  # type: ignore[arg-type]
    bench.serve()
    page = bench.server._page.octets
    assert page[32 + 30] & 0xF == 3
    assert bench.config(0) == 0x11111234, "and the other vCPU is served"


@pytest.mark.parametrize("state", [0, 2, 3, 4, 15])
def test_states_that_are_not_ready_are_left_alone(bench: Bench, state: int) -> None:
    bench.hub.put(DOMID, bench.server.id, 1, COPY, AT, 4, 0, state=state)
    bench.serve()
    assert bench.server._page.octets[32 + 30] & 0xF == state
    bench.server._page.octets[32 + 30] = 0


def test_garbage_in_the_page(bench: Bench) -> None:
    dice = random.Random(4)
    bench.hub.ram(DOMID, 0)
    for _ in range(3000):
        vcpu, kind = dice.randrange(2), dice.choice((0, 1, 2, 2, 2, 7, 8, dice.randrange(256)))
        addr = dice.choice((AT, PORTS, ONE.sbdf << 32 | dice.randrange(256), dice.getrandbits(64)))
        size, repeat = dice.choice((1, 2, 4, 8, dice.getrandbits(32))), dice.choice((1, 1, 2, dice.getrandbits(32)))
        flags = dice.random() < 0.5, dice.random() < 0.2, dice.random() < 0.5
        data = dice.getrandbits(dice.choice((8, 32, 64)))
        bench.hub.put(DOMID, bench.server.id, vcpu, kind, addr, size, data, repeat, *flags)
        bench.serve()
        assert all(bench.server._page.octets[32 * vcpu + 30] & 0xF in (0, 3) for vcpu in range(2))
    assert len(bench.log) <= 64


def test_what_xen_refuses_is_logged_and_tried_again(bench: Bench) -> None:
    """A server that has no room for more ranges."""
    for i in range(256):
        bench.server.map_range(0x1000 + 4 * i, 0x1001 + 4 * i, memory=True)
    bench.place(0, AT)
    bench.config(4, 2, 2)
    assert bench.log == ["xendevicemodel_map_io_range_to_ioreq_server: ENOMEM (Cannot allocate memory) [XLP111]"]
    assert bench.do(COPY, AT, 4) == 0xFFFFFFFF
    bench.server.unmap_range(0x1000, 0x1001, memory=True)
    bench.config(4, 2, 2)
    bench.do(COPY, AT, 4, 9)
    assert bench.bar().accesses == [("w", 0, 4)]


def test_moves_leave_nothing_behind(bench: Bench) -> None:
    bench.config(4, 2, 3)
    dice = random.Random(7)
    for _ in range(2000):
        bench.place(0, dice.randrange(1, 0xFFFFF) << 12)
        bench.place(1, dice.randrange(1, 0xFE) << 8)
    assert (len(bench.sent[0]), bench.sent[0].total, bench.sent[1].total) == (1, 0x1000, 0x100)


# a successor ----------------------------------------------------------------------------------------------------------


def test_a_successor_goes_on(bench: Bench) -> None:
    bench.place(0, AT)
    bench.config(4, 2, 2)
    waiting = bench.hub.access(DOMID, COPY, AT, 4, 5)
    bench.server.abandon()
    assert bench.hub.result(waiting) is None
    bench.start(adopt=bench.server.id)
    bench.model.take_over()
    bench.server.serve_all(bench.model.answer)
    assert bench.hub.result(waiting) == 0
    assert bench.bar().data[0] == 5
    assert bench.sent[0] == at(AT, 0x1000)
    bench.place(0, AT + 0x1000)
    assert bench.sent[0] == at(AT + 0x1000, 0x1000)
    assert bench.log == []


def test_a_successor_does_not_repeat_what_was_begun(bench: Bench) -> None:
    bench.place(0, AT)
    bench.config(4, 2, 2)
    begun = bench.hub.access(DOMID, COPY, AT, 4)
    assert bench.server.slots.take(0) is not None
    bench.server.abandon()
    bench.start(adopt=bench.server.id)
    bench.model.take_over()
    bench.server.serve_all(bench.model.answer)
    assert bench.hub.result(begun) == (1 << 64) - 1
    assert bench.bar().accesses == []


@pytest.mark.parametrize("die_at", range(8))
def test_a_successor_of_one_that_died_between_two_calls(bench: Bench, die_at: int) -> None:
    """Wherever it died: afterwards Xen sends what the registers say, and nothing else."""
    bench.place(0, AT)
    bench.place(1, PORTS)
    bench.config(4, 2, 3)
    real, count = bench.devices.call, 0

    def dying(operation: str, domid: int, **arguments: int) -> None:
        nonlocal count
        count += 1
        if count > die_at // 2:
            if die_at % 2:
                real(operation, domid, **arguments)  # carried out, and then it died
            raise KeyboardInterrupt
        real(operation, domid, **arguments)

    bench.devices.call = dying  # type: ignore[method-assign]
    try:
        bench.model.answer(Request(0, PCI_CONFIG, ONE.sbdf << 32 | 0x10, AT + 0x5000, 4, read=False))
        bench.model.answer(Request(0, PCI_CONFIG, ONE.sbdf << 32 | 4, 1, 2, read=False))
        bench.model.answer(Request(0, PCI_CONFIG, ONE.sbdf << 32 | 4, 3, 2, read=False))
    except KeyboardInterrupt:
        pass
    bench.devices.call = real  # type: ignore[method-assign]
    bench.server.abandon()
    bench.start(adopt=bench.server.id)
    bench.model.take_over()
    wanted = {d.bar.number: RangeSet([(d.start, d.stop)]) for d in bench.functions[0].config.decoded()}
    assert bench.sent == (wanted.get(0, RangeSet()), wanted.get(1, RangeSet()))


# the server ------------------------------------------------------------------------------------------------------------


def test_stopping_lets_a_vcpu_go_with_all_ones(bench: Bench) -> None:
    bench.place(0, AT)
    bench.config(4, 2, 2)
    access = bench.hub.access(DOMID, COPY, AT, 4)
    page = bench.hub.domains[DOMID].servers[bench.server.id].page
    bench.server.stop()
    assert int.from_bytes(bytes(page[8:16]), "little") == (1 << 64) - 1
    assert access.server is not None


def test_an_answer_that_raises_still_answers(bench: Bench) -> None:
    access = bench.hub.access(DOMID, PCI_CONFIG, ONE.sbdf << 32, 4)

    def fails(request: Request) -> int:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError):
        bench.server.serve(fails)
    assert bench.hub.result(access) == (1 << 64) - 1


def test_a_domain_that_is_gone_is_closed_in_silence(bench: Bench) -> None:
    gone = bench.hub.domains.pop(DOMID)
    bench.server.close()
    bench.hub.domains[DOMID] = gone
    del gone.servers[bench.server.id]


def test_no_page_no_server() -> None:
    """What was made for nothing is destroyed."""
    hub = Hub()
    hub.domain(DOMID)

    class NoPage(MemMemory):
        def ioreq_page(self, domid: int, server: int):
            raise XenError("xenforeignmemory_map_resource", errno.EPERM)

    with pytest.raises(XenError):
        IoreqServer(DOMID, MemDevices(hub), NoPage(hub), None)  # type: ignore[arg-type]
    assert [info.id for info in hub.infos(DOMID)] == [0]


def test_config_bytes_are_what_the_state_has_room_for() -> None:
    assert CONFIG_BYTES == 256
