# SPDX-License-Identifier: LGPL-2.1-only
"""What may be delegated, and where the guest sees it."""

import copy
import errno

import pytest

from tests.fault.inject import Fault, FaultyStore, Injector
from tests.unit.fakes import xenstore
from xlplug.config.delegated import Spec, parse_spec, place
from xlplug.delegate.admit import admit, guest
from xlplug.delegate.record import (
    DelegateProcess,
    RecordedDevice,
    process_started,
    read,
    write_delegate,
    write_device_model,
)
from xlplug.model.bar import IO, MEMORY32, Bar
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, Refused, StoreError, XenError, XlplugError
from xlplug.model.host import PciDevice, Resource
from xlplug.model.hypervisor import DomainInfo, IoreqServerInfo
from xlplug.model.rangeset import RangeSet
from xlplug.xen.store_in_memory import MemStore

CARD, OTHER = Bdf(0, 3, 0, 0), Bdf(0, 4, 0, 1)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("03:00.0", Spec(CARD)),
        ("0000:03:00.0,vslot=1d", Spec(CARD, 0x1D)),
        (" 03:00.0 , vslot = 0x5.3 ", Spec(CARD, 5, 3)),
    ],
)
def test_specs(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not a PCI address"),
        ("03:00", "'03:00' is not a PCI address"),
        ("03:00.0,vslot=0", "'0' is not a slot of a guest"),
        ("03:00.0,vslot=20", "'20' is not a slot of a guest"),
        ("03:00.0,vslot=1d.8", "'1d.8' is not a slot of a guest"),
        ("03:00.0,vslot=", "'' is not a slot of a guest"),
        ("03:00.0,vslot", "an option that is not known, 'vslot'"),
        ("03:00.0,permissive=1", "an option that is not known, 'permissive=1'"),
        ("03:00.0,vslot=1,vslot=2", "has a vslot twice"),
        ("03:00.0,dma=1", "asks for dma, which no stable interface of Xen has"),
        ("03:00.0,msi=1", "asks for msi, which"),
    ],
)
def test_malformed_specs(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    assert complaint in str(caught.value)


def test_places() -> None:
    assert place([Spec(CARD), Spec(OTHER)], ()) == (Bdf(0, 0, 0x1E, 0), Bdf(0, 0, 0x1D, 0))
    assert place([Spec(CARD), Spec(OTHER, 0x1E)], {0x1D}) == (Bdf(0, 0, 0x1C, 0), Bdf(0, 0, 0x1E, 0))
    assert place([Spec(CARD, 5, 1), Spec(OTHER, 5)], {1}) == (Bdf(0, 0, 5, 1), Bdf(0, 0, 5, 0))


@pytest.mark.parametrize(
    ("specs", "taken", "complaint"),
    [
        ([Spec(CARD, 5)], {5}, "slot 5 of the guest is in use"),
        ([Spec(CARD), Spec(CARD)], (), "0000:03:00.0 is named twice"),
        ([Spec(CARD, 5), Spec(OTHER, 5)], (), "two functions at 5.0"),
        ([Spec(CARD, 5, 2)], (), "slot 5 of the guest would have no function 0"),
        ([Spec(CARD)], range(32), "the guest has no free slot"),
    ],
)
def test_places_that_cannot_be(specs: list[Spec], taken: set[int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        place(specs, taken)


class Host:
    """A Xen with one guest that has its device model's server."""

    def __init__(self, **info: object) -> None:
        self.info = DomainInfo(7, uuid="u", **info)  # type: ignore[arg-type]

    def domain_info(self, domid: int) -> DomainInfo | None:
        return self.info if domid == 7 else None

    def ioreq_servers(self) -> dict[int, tuple[IoreqServerInfo, ...]]:
        return {7: (IoreqServerInfo(0, RangeSet([(0, 1), (8, 12), (0xF0, 0xF1)])),)}


def card(**changes: object) -> PciDevice:
    config = bytes.fromhex("34121111") + bytes(60)
    resources = (Resource(0, 0xFE000000, 0xFE100000, 0x40200), Resource(1, 0xC000, 0xC040, 0x40101))
    return PciDevice(CARD, 0x1234, 0x1111, 0x020000, resources, config, driver="pciback")._replace(**changes)  # type: ignore[arg-type]


def test_a_device_that_may_be_delegated() -> None:
    (placement,) = admit(7, [Spec(CARD)], [card()], Host())
    assert placement.guest == Bdf(0, 0, 0x1D, 0), "1e is the device model's"
    assert placement.bars == (Bar(0, MEMORY32, 0xFE000000, 0xFE100000), Bar(1, IO, 0xC000, 0xC040))
    assert len(placement.header) == 64


@pytest.mark.parametrize("number", [errno.ENODATA, errno.EAGAIN, errno.EPERM])
def test_a_dump_that_cannot_be_had(number: int) -> None:
    class Full(Host):
        def ioreq_servers(self) -> dict[int, tuple[IoreqServerInfo, ...]]:
            raise XenError("xc_readconsolering", number)

    if number == errno.EPERM:
        with pytest.raises(XenError):
            admit(7, [Spec(CARD)], [card()], Full())
        return
    (placement,) = admit(7, [Spec(CARD)], [card()], Full())
    assert placement.guest == Bdf(0, 0, 0x1E, 0)
    (placement,) = admit(7, [Spec(CARD, 5)], [card()], Full())
    assert placement.guest == Bdf(0, 0, 5, 0)


@pytest.mark.parametrize(
    ("device", "slot", "complaint"),
    [
        (None, None, "0000:03:00.0 was not found on this host; see 'lspci -D'"),
        (
            card(owner=9),
            None,
            "refused: 0000:03:00.0 is assigned to domain 9, whose device model maps it; take it back (xl pci-detach 9 ",
        ),
        (
            card(driver="e1000"),
            None,
            "bound to the driver e1000, not to pciback; run: xl pci-assignable-add 0000:03:00.0",
        ),
        (card(driver=None), None, "bound to no driver, not to pciback; run: xl pci-assignable-add"),
        (card(config=bytes(63)), None, "the config space of 0000:03:00.0 cannot be read; run xlplug as root in dom0"),
        (
            card(config=bytes(14) + b"\x81" + bytes(49)),
            None,
            "0000:03:00.0 is a bridge, and only devices can be delegated",
        ),
        (card(resources=(Resource(0, 0x1000, 0x4000, 0x200),)), None, "BAR 0 of 0000:03:00.0 has 0x3000 bytes"),
        (card(), 1, "slot 1 of the guest is in use; give another vslot"),
        (card(), 0x1E, "slot 1e of the guest is in use"),
    ],
)
def test_devices_that_may_not(device: PciDevice | None, slot: int | None, complaint: str) -> None:
    with pytest.raises(XlplugError) as caught:
        admit(7, [Spec(CARD, slot)], [device] if device else [], Host())
    assert complaint in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("host", "domid", "complaint"),
    [
        (Host(), 8, "domain 8 does not exist"),
        (Host(dying=True), 7, "domain 7 does not exist"),
        (Host(hvm=False), 7, "domain 7 is a PV domain, which has no BARs of its own"),
    ],
)
def test_unsuitable_guests(host: Host, domid: int, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        guest(domid, host)


def test_a_process_that_nobody_has_waited_for_is_not_alive() -> None:
    import os
    import time

    assert process_started(os.getpid())
    pid = os.fork()
    if not pid:
        os._exit(0)
    deadline = time.monotonic() + 10
    while process_started(pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.waitpid(pid, 0)
    assert process_started(pid) is None


def test_the_record_is_read_as_it_was_written() -> None:
    store = xenstore()
    devices = (
        RecordedDevice(CARD, (Bar(0, MEMORY32, 0xFE000000, 0xFE100000), Bar(4, IO, 0xC000, 0xC040)), Bdf(0, 0, 29, 0)),
    )
    process = DelegateProcess(1, 1234, 99, "/run/xlplug/dm-7.state")
    write_delegate(store, 7, "u", 8, devices, process)
    assert store.readers == {"/libxl/7/xlplug-devices": 8}
    found = read(store, 7)
    write_delegate(store, 7, "u", 8, devices, process)
    assert read(store, 7) == found
    assert found is not None
    assert (found.uuid, found.dm, found.delegate, found.process, found.device_model) == ("u", 8, devices, process, ())
    assert store.read("/libxl/7/xlplug-devices/delegate/0/bar-4") == "io c000-c03f"
    assert read(store, 8) is None
    for node, value in (
        ("version", "2"),
        ("dm", "x"),
        ("delegate/0/host", "?"),
        ("delegate/0/bar-0", "io"),
        ("delegate-process/pid", ""),
    ):
        path = f"/libxl/7/xlplug-devices/{node}"
        before = store.read(path)
        store.write(path, value)
        with pytest.raises(XlplugError, match=r"^xenstore: /libxl/7/xlplug-devices is not as xlplug writes it"):
            read(store, 7)
        store.write(path, before or "")


@pytest.mark.parametrize("at", range(40))
def test_a_record_is_there_whole_and_of_a_living_guest_only(at: int) -> None:
    """Whatever is read or written while it is written, xenstored fails, or libxl removes the domain: not a part, not a rest."""
    store, before = xenstore(), "another, of that number"
    write_device_model(store, 7, before, 0, (RecordedDevice(CARD, ()),))
    ours = (RecordedDevice(CARD, (Bar(0, MEMORY32, 0xFE000000, 0xFE100000),)),)
    for kind in ("store", "destroy"):
        tried = copy.deepcopy(store)

        def destroy(tried: MemStore = tried) -> None:
            for path in ("/local/domain/7", "/libxl/7"):
                tried.remove(path)

        injector = Injector(Fault(kind, at))
        injector.destroy = destroy
        try:
            write_device_model(FaultyStore(tried, injector), 7, "u", 0, ours)  # type: ignore[arg-type] # for dom0 alone
        except StoreError:
            assert kind == "store"
        found = read(tried, 7)
        if kind == "destroy" and len(injector.points) > at:
            assert not tried.list("/libxl"), tried.nodes
        else:
            assert found is None or (found.uuid, found.device_model) in (
                (before, (RecordedDevice(CARD, ()),)),
                ("u", ours),
            )
