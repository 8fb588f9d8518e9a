# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug dm`` on the real Xen: a guest sees, sizes, moves and uses devices that a process without rights serves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import VGA, Guests, xlplug
from tests.lab.dom0.delegates import Delegate, delegate, servers, verify
from tests.lab.dom0.puppet import BUFFER, EDU, EDU2, NE2K, RTL8139, TESTDEV, Device, Puppet, assignable, living
from xlplug.model.rangeset import RangeSet

EDU_AT, DEV_AT, PREFETCH_AT, SMALL_AT, SECOND_AT = 0xF0000000, 0xF1000000, 0xF2000000, 0xF3000100, 0xF4000000
NE_AT, REALTEK_AT, DEV_PORTS = 0xC100, 0xC200, 0xC300
PORTS, MEMORY = 1, 2


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Puppet]:
    with living(tmp_path_factory.mktemp("puppet"), "vcpus=2\n") as made:
        yield made


@pytest.fixture(scope="module")
def served(puppet: Puppet) -> Iterator[Delegate]:
    assignable(EDU, EDU2, TESTDEV, NE2K, RTL8139)
    named = (f"{EDU},vslot=10", f"{TESTDEV},vslot=11", f"{NE2K},vslot=12", f"{RTL8139},vslot=12.1", EDU2)
    with delegate(puppet.domid, *named) as made:
        yield made
    assert made.complaints == []
    assert len(servers(puppet.domid)) == 2, "QEMU's and the test's own"


@pytest.fixture
def edu(puppet: Puppet, served: Delegate) -> Iterator[Device]:
    device = Device(puppet, 0x10)
    device.place(0, EDU_AT)
    device.decode(MEMORY)
    yield device
    device.decode(0)


@pytest.fixture
def testdev(puppet: Puppet, served: Delegate) -> Iterator[Device]:
    device = Device(puppet, 0x11)
    device.place(0, DEV_AT)
    device.place(1, DEV_PORTS)
    device.place(2, PREFETCH_AT)
    device.decode(PORTS | MEMORY)
    yield device
    device.decode(0)


def sent(puppet: Puppet) -> tuple[RangeSet, RangeSet]:
    """Memory and ports that Xen sends to the delegate."""
    server = servers(puppet.domid)[-1]
    return server.memory, server.ports


def agrees(puppet: Puppet, **live: int) -> None:
    """``xlplug verify`` finds nothing wrong, and these BARs live ("host_bar") where they are said to be, no others."""
    status, report = verify(puppet.domid)
    assert (status, report["problems"]) == (0, [])
    found = {
        f"{device['host'][8:10]}_{bar['index']}": bar["guest"]["first"]
        for device in report["devices"]
        for bar in device["bars"]
        if bar["state"] == "live"
    }
    assert found == {f"{name[1:]}": address for name, address in live.items()}


def test_what_the_administrator_is_told(served: Delegate) -> None:
    assert len(served.said) == 6
    assert served.said[0].startswith(f"{EDU} at 0000:00:10.0 of domain {served.domid}: BAR 0 memory32 ")
    assert served.said[4].startswith(f"{EDU2} at 0000:00:1e.0 of domain")
    assert served.said[5] == "ready"


@pytest.mark.smoke
def test_a_guest_finds_and_sizes_them(puppet: Puppet, served: Delegate) -> None:
    assert [puppet.config(slot << 3, 0, 4) for slot in (0x10, 0x11, 0x12, 0x1E)] == [
        0x11E81234,
        0x51B36,
        0x802910EC,
        0x11E81234,
    ]
    assert [puppet.config(0x12 << 3 | f, 0, 4) for f in (1, 2)] == [0x813910EC, 0xFFFFFFFF]
    assert [Device(puppet, slot).config(0xE, 1) for slot in (0x10, 0x12)] == [0, 0x80]
    assert Device(puppet, 0x10).size(0) == 1 << 20
    testdev = Device(puppet, 0x11)
    assert (testdev.size(0), testdev.size(1), testdev.size(2)) == (0x1000, 0x100, 16 << 20)
    assert testdev.config(0x18, 4) == 0xC, "64 bits, prefetchable"
    assert (Device(puppet, 0x12, 1).size(0), Device(puppet, 0x12, 1).size(1)) == (0x100, 0x100)
    assert sent(puppet) == (RangeSet(), RangeSet())
    agrees(puppet)


@pytest.mark.smoke
def test_memory_is_the_device_s(puppet: Puppet, edu: Device) -> None:
    assert puppet.read(EDU_AT) == 0x010000ED
    puppet.write(EDU_AT + 4, 0x12345678)
    assert puppet.read(EDU_AT + 4) == 0x12345678 ^ 0xFFFFFFFF
    puppet.write(EDU_AT + 8, 6)
    while puppet.read(EDU_AT + 0x20) & 1:  # a thread of QEMU's computes it
        pass
    assert puppet.read(EDU_AT + 8) == 720
    assert puppet.read(EDU_AT + (1 << 20)) == 0xFFFFFFFF
    agrees(puppet, d10_0=EDU_AT)


@pytest.mark.smoke
def test_ports_are_the_device_s(puppet: Puppet, served: Delegate) -> None:
    card = Device(puppet, 0x12)
    card.place(0, NE_AT)
    card.decode(PORTS)
    puppet.port(NE_AT + 0x1F, 1, puppet.port(NE_AT + 0x1F))  # reset
    assert [puppet.port(NE_AT + register) for register in (0x0A, 0x0B)] == [0x50, 0x43]
    agrees(puppet, d12_0=NE_AT)
    card.decode(0)
    assert puppet.port(NE_AT + 0x0A) == 0xFF
    agrees(puppet)


def test_a_bar_smaller_than_a_page_shows_nothing_of_its_neighbours(puppet: Puppet, served: Delegate) -> None:
    """At any address: its place in the page is not the host's."""
    card = Device(puppet, 0x12, 1)
    card.place(1, SMALL_AT)
    card.place(0, REALTEK_AT)
    card.decode(PORTS | MEMORY)
    mac = puppet.read(SMALL_AT)
    assert mac & 0xFFFFFF == 0x005452, "QEMU's addresses begin with 52:54:00"
    assert puppet.port(REALTEK_AT, 4) == mac
    assert [puppet.read(SMALL_AT + offset) for offset in (-4, 0x100)] == [0xFFFFFFFF] * 2
    assert puppet.read(SMALL_AT + 0xFE) == 0xFFFFFFFF, "across its end"
    agrees(puppet, d13_0=REALTEK_AT, d13_1=SMALL_AT)
    card.decode(0)


def test_widths_are_exact(puppet: Puppet, testdev: Device) -> None:
    puppet.write(DEV_AT, 0, 1)
    name = bytes(puppet.read(DEV_AT + 0x10 + i, 1) for i in range(16))
    assert name.startswith(b"mmio-no-eventfd\0")
    puppet.port(DEV_PORTS, 1, 0)
    assert bytes(puppet.port(DEV_PORTS + 0x10 + i) for i in range(17)).startswith(b"portio-no-eventfd")


@pytest.mark.smoke
def test_string_instructions(puppet: Puppet, edu: Device, testdev: Device) -> None:
    puppet.memory(BUFFER, bytes(64))
    puppet.do("movs_from", EDU_AT, BUFFER, 2)
    assert puppet.memory(BUFFER, size=4) == (0x010000ED).to_bytes(4, "little")
    puppet.memory(BUFFER, (0x01020304).to_bytes(4, "little"))
    puppet.do("movs_to", EDU_AT + 4, BUFFER, 1)
    assert puppet.read(EDU_AT + 4) == 0x01020304 ^ 0xFFFFFFFF
    puppet.do("movs_back", EDU_AT + 4, BUFFER + 12, 2)
    assert puppet.memory(BUFFER + 8, size=4) == (0x010000ED).to_bytes(4, "little")
    edge = BUFFER + 0xFFE  # guest memory across the end of a page
    puppet.do("movs_from", EDU_AT, edge, 1)
    assert puppet.memory(edge, size=2) + puppet.memory(edge + 2, size=2) == (0x010000ED).to_bytes(4, "little")
    puppet.port(DEV_PORTS, 1, 0)
    puppet.do("ins8", DEV_PORTS + 0x10, BUFFER, 5)
    assert puppet.memory(BUFFER, size=5) == b"ppppp"
    puppet.do("stos32", EDU_AT + 4, 0x77, 1)
    assert puppet.read(EDU_AT + 4) == 0x77 ^ 0xFFFFFFFF


@pytest.mark.smoke
def test_moving_and_turning_off(puppet: Puppet, edu: Device) -> None:
    for address in (0xE0000000, 0xE0100000, 0xFEB00000):
        edu.place(0, address)
        assert puppet.read(address) == 0x010000ED
        assert sent(puppet)[0] == RangeSet([(address, address + (1 << 20))])
        agrees(puppet, d10_0=address)
    edu.decode(0)
    assert puppet.read(0xFEB00000) == 0xFFFFFFFF
    assert sent(puppet)[0] == RangeSet()


def test_above_four_gib(puppet: Puppet, testdev: Device) -> None:
    testdev.place(2, 0x8_0000_0000)
    agrees(puppet, d11_0=DEV_AT, d11_1=DEV_PORTS, d11_2=0x8_0000_0000)


def test_one_s_own_bars_on_top_of_each_other(puppet: Puppet, edu: Device) -> None:
    """The first keeps the place, the other appears when it moves away."""
    second = Device(puppet, 0x1E)
    puppet.write(EDU_AT + 4, 1)
    second.place(0, SECOND_AT)
    second.decode(MEMORY)
    puppet.write(SECOND_AT + 4, 2)
    second.place(0, EDU_AT)
    assert puppet.read(EDU_AT + 4) == 0xFFFFFFFE, "the first"
    status, report = verify(puppet.domid)
    assert (status, [d["bars"][0]["state"] for d in report["devices"] if d["host"] in (EDU, EDU2)]) == (
        0,
        ["live", "hidden"],
    )
    edu.decode(0)
    assert puppet.read(EDU_AT + 4) == 0xFFFFFFFD, "the second"
    agrees(puppet, d14_0=EDU_AT)
    second.decode(0)


def test_sizing_with_decoding_on(puppet: Puppet, edu: Device) -> None:
    edu.config(0x10, 4, 0xFFFFFFFF)
    assert edu.config(0x10, 4) == 0xFFF00000
    assert sent(puppet)[0] == RangeSet()
    edu.config(0x10, 4, EDU_AT)
    assert puppet.read(EDU_AT) == 0x010000ED


def test_two_vcpus_at_once(puppet: Puppet, edu: Device, testdev: Device) -> None:
    puppet.start_cpu(1)
    for i in range(20):
        puppet.begin("write32", EDU_AT + 4, i)
        puppet.begin("read32", EDU_AT, vcpu=1)
        puppet.finish()
        assert puppet.finish(vcpu=1) & 0xFFFFFFFF == 0x010000ED


def test_the_host_never_masters_the_bus(puppet: Puppet, edu: Device) -> None:
    edu.decode(MEMORY | 4)
    assert edu.config(4, 2) == 6
    command = int.from_bytes(Path(f"/sys/bus/pci/devices/{EDU}/config").read_bytes()[4:6], "little")
    assert command & 7 == 3


@pytest.mark.parametrize(
    ("devices", "status", "complaint"),
    [
        (
            (EDU,),
            1,
            "refused: domain {domid} has a delegate already; stop it (kill -TERM {pid}) and start one for all of the",
        ),
        (("0000:00:1c.0",), 1, "refused: domain {domid} has a delegate already"),
        (
            (f"{EDU},dma=1",),
            2,
            "'{edu},dma=1' asks for dma, which no stable interface of Xen has for a delegate; leave it out",
        ),
        ((f"{EDU},vslot=20",), 2, "'20' is not a slot of a guest"),
    ],
)
def test_refusals_beside_a_delegate(served: Delegate, devices: tuple[str, ...], status: int, complaint: str) -> None:
    done = xlplug("dm", str(served.domid), *devices)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert complaint.format(domid=served.domid, pid=served.pid, edu=EDU) in done.stderr
    assert served.process.poll() is None


def test_a_device_that_another_guest_s_delegate_has(served: Delegate, guests: Guests) -> None:
    domid, _ = guests.make()
    done = xlplug("dm", str(domid), EDU)
    assert (done.returncode, done.stderr.startswith(f"xlplug: refused: {EDU} is delegated already")) == (1, True)
    assert len(servers(domid)) == 1
    done = xlplug("dm", str(domid), f"{VGA},vslot=1")
    assert (done.returncode, "slot 1 of the guest is in use; give another vslot" in done.stderr) == (1, True)
    done = xlplug("verify", str(domid))
    assert (done.returncode, "nothing is recorded for domain" in done.stderr) == (1, True)
