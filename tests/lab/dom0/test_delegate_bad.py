# SPDX-License-Identifier: LGPL-2.1-only
"""What no guest and no Xen should do, on the real Xen: each gets an answer, and afterwards Xen has what the registers say."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import Guests, xlplug
from tests.lab.dom0.delegates import Delegate, delegate, servers, verify
from tests.lab.dom0.puppet import EDU, EDU2, NE2K, RTL8139, TESTDEV, Device, Puppet, assignable, living
from xlplug.model.rangeset import RangeSet
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.evtchn import EventChannels
from xlplug.xen.foreignmemory import ForeignMemory
from xlplug.xen.ioreq import IoreqServer

EDU_AT, SECOND_AT, KNOWN, ONES = 0xF0000000, 0xF4000000, 0x010000ED, 0xFFFFFFFF
FUNCTIONS = (0x80, 0x88, 0x90, 0x91, 0xF0)
MOVES = 10_000  #: each is a config write of the guest's, with an unmapping and a mapping in Xen


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Puppet]:
    with living(tmp_path_factory.mktemp("puppet"), "vcpus=2\n") as made:
        made.start_cpu(1)
        yield made


@pytest.fixture(scope="module")
def served(puppet: Puppet) -> Iterator[Delegate]:
    assignable(EDU, EDU2, TESTDEV, NE2K, RTL8139)
    named = (f"{EDU},vslot=10", f"{TESTDEV},vslot=11", f"{NE2K},vslot=12", f"{RTL8139},vslot=12.1", EDU2)
    with delegate(puppet.domid, *named) as made:
        yield made


@pytest.fixture
def edu(puppet: Puppet, served: Delegate) -> Iterator[Device]:
    device = Device(puppet, 0x10)
    device.place(0, EDU_AT)
    device.decode(2)
    yield device
    device.decode(0)


def agrees(domid: int) -> list[dict[str, object]]:
    """Nothing wrong; the live BARs."""
    status, report = verify(domid)
    assert (status, report["problems"]) == (0, [])
    return [bar for device in report["devices"] for bar in device["bars"] if bar["state"] == "live"]


def test_no_room_for_a_server(guests: Guests) -> None:
    assignable(EDU2)
    domid, _ = guests.make()
    with DeviceModel() as devices, ForeignMemory() as memory, EventChannels() as channels:
        made = [IoreqServer(domid, devices, memory, channels) for _ in range(7)]
        done = xlplug("dm", str(domid), EDU2)
        for server in made:
            server.close()
    assert done.returncode == 3
    assert "ENOSPC" in done.stderr
    assert "a domain has room for 8 ioreq servers, the device model's included; stop one" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.once
def test_noise_in_every_register_while_another_vcpu_works(puppet: Puppet, served: Delegate, edu: Device) -> None:
    """Every register of every function, 1, 2 and 4 bytes at a time."""
    for seed, devfn in enumerate(FUNCTIONS):
        puppet.begin("reads32", EDU_AT, 0, 150, vcpu=1)
        puppet.begin("garbage", 0x80000000 | devfn << 8, seed)
        puppet.finish(seconds=60)
        puppet.finish(vcpu=1, seconds=60)
    agrees(puppet.domid)  # wherever their BARs are by now
    for devfn in FUNCTIONS:
        puppet.config(devfn, 4, 2, 0)
    assert agrees(puppet.domid) == []
    edu.place(0, EDU_AT)
    edu.decode(2)
    assert puppet.read(EDU_AT) == KNOWN
    assert served.process.poll() is None


@pytest.mark.once
def test_every_alignment(puppet: Puppet, served: Delegate) -> None:
    """A BAR of 256 bytes at every multiple of them in a page, and at every power of two; what is below its size is not kept."""
    card = Device(puppet, 0x12, 1)
    places = [0xF3000000 + 256 * i for i in range(16)] + [0xF3000000 + (1 << shift) for shift in range(8, 24)]
    card.place(1, places[0])
    card.decode(2)
    mac = puppet.read(places[0])
    assert mac & 0xFFFFFF == 0x005452
    for address in places:
        card.place(1, address | 0xFF)
        assert card.config(0x14, 4) == address
        assert puppet.read(address) == mac, hex(address)
    (bar,) = agrees(puppet.domid)
    assert bar["guest"] == {"first": places[-1], "count": 256}
    card.decode(0)


@pytest.mark.once
def test_many_moves(puppet: Puppet, served: Delegate, edu: Device) -> None:
    """The guest moves a BAR back and forth without a pause, while the other vCPU looks where it was."""
    puppet.begin("reads32", EDU_AT, 0, 1000, vcpu=1)
    puppet.do("out32", 0xCF8, 0x80000000 | 0x80 << 8 | 0x10)
    began = time.monotonic()
    puppet.begin("moves32", SECOND_AT, EDU_AT, MOVES // 2)
    puppet.finish(seconds=600)
    seconds = time.monotonic() - began
    with Path("/out/waited").open("a") as file:
        file.write(f"{MOVES} moves: {seconds:.1f} s\n")
    puppet.finish(vcpu=1, seconds=600)
    assert servers(puppet.domid)[-1].memory == RangeSet([(EDU_AT, EDU_AT + (1 << 20))])
    (bar,) = agrees(puppet.domid)
    assert bar["guest"] == {"first": EDU_AT, "count": 1 << 20}
    assert puppet.read(EDU_AT) == KNOWN


def test_no_room_for_a_range(puppet: Puppet, served: Delegate, edu: Device) -> None:
    """Somebody in dom0 has filled the server up: the BAR is nowhere, which is said, until there is room again."""
    edu.decode(0)
    server = servers(puppet.domid)[-1]
    with DeviceModel() as devices:
        spans = [(at := 0xE0000000 + 0x2000 * i, at + 0xFFF) for i in range(256)]
        for first, last in spans:
            devices.call("map_io_range_to_ioreq_server", puppet.domid, id=server.id, is_mmio=1, start=first, end=last)
        edu.decode(2)
        assert puppet.read(EDU_AT) == ONES
        status, report = verify(puppet.domid)
        for first, last in spans:
            devices.call(
                "unmap_io_range_from_ioreq_server", puppet.domid, id=server.id, is_mmio=1, start=first, end=last
            )
    assert status == 1
    assert any("beyond the record" in problem["what"] for problem in report["problems"])
    assert any("ENOMEM" in line for line in served.complaints)
    edu.decode(2)
    assert puppet.read(EDU_AT) == KNOWN
    assert len(agrees(puppet.domid)) == 1


IMPOSSIBLE = (
    {"size": 3}, {"size": 0}, {"size": ONES}, {"count": 0}, {"count": ONES}, {"kind": 3}, {"kind": 255}, {"kind": 7},
    {"addr": (1 << 64) - 1}, {"kind": 2, "addr": (1 << 64) - 1}, {"kind": 0, "addr": 1 << 40},
    {"flags": 0x10, "data": (1 << 64) - 1},
    {"flags": 0x50, "data": 0, "count": 4096}, {"flags": 0x30, "data": 1 << 50, "count": 9},
)  # fmt: skip


@pytest.mark.once
def test_impossible_requests_in_the_shared_page(puppet: Puppet, served: Delegate, edu: Device) -> None:
    """A request is made impossible while it waits.  Each is answered, and the other vCPU is served meanwhile."""
    server = servers(puppet.domid)[-1].id
    with ForeignMemory() as memory, memory.ioreq_page(puppet.domid, server) as page:
        for wrong in IMPOSSIBLE:
            for process in (served.process.pid, served.pid):  # the supervisor would continue the other one
                os.kill(process, signal.SIGSTOP)
            puppet.begin("read32", EDU_AT)
            puppet.serve_for(0.05)
            assert page.octets[30] & 0xF == 1, "it waits"
            page.quads[0], page.quads[1] = wrong.get("addr", EDU_AT), wrong.get("data", 0)
            page.quads[2] = wrong.get("size", 4) << 32 | wrong.get("count", 1)
            page.octets[31] = wrong.get("kind", 1)
            page.octets[30] = wrong.get("flags", 0x20) | 1
            for process in (served.pid, served.process.pid):
                os.kill(process, signal.SIGCONT)
            puppet.finish(seconds=10)
            assert puppet.read(EDU_AT, vcpu=1) == KNOWN, wrong
    assert served.process.poll() is None
    assert not any("Traceback" in line or "took over" in line for line in served.complaints), served.complaints
    assert len([line for line in served.complaints if "not a request that a device model is sent" in line]) >= 5
