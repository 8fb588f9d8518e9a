# SPDX-License-Identifier: LGPL-2.1-only
"""What ioreq servers, event channels and their page answer, on the real Xen and in memory alike: docs/bindings.md's table."""

import errno
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.contract.conftest import IN_LAB, RealWorld
from tests.contract.ioreq_in_memory import Hub, MemChannels, MemDevices, MemMemory
from tests.contract.test_contract import code
from xlplug.xen.ioreq import IoreqServer

MEMORY, PORTS = True, False


class Bindings(NamedTuple):
    """The three handles, and a guest that has its device model's ioreq server and no other."""

    devices: Any
    memory: Any
    channels: Any
    domid: int

    def server(self) -> IoreqServer:
        return IoreqServer(self.domid, self.devices, self.memory, self.channels)


@pytest.fixture(scope="module")
def them() -> Iterator[Bindings]:
    if IN_LAB:
        from xlplug.xen.devicemodel import DeviceModel
        from xlplug.xen.evtchn import EventChannels
        from xlplug.xen.foreignmemory import ForeignMemory

        world = RealWorld()
        domid = world.domain()
        with DeviceModel() as devices, ForeignMemory() as memory, EventChannels() as channels:
            yield Bindings(devices, memory, channels, domid)
        world.destroy(domid)
    else:
        hub = Hub()
        hub.domain(1)
        channels = MemChannels(hub)
        yield Bindings(MemDevices(hub), MemMemory(hub), channels, 1)
        channels.close()


@pytest.fixture
def server(them: Bindings) -> Iterator[IoreqServer]:
    with them.server() as made:
        yield made


def test_servers_that_cannot_be_made(them: Bindings) -> None:
    create = them.devices.create_ioreq_server
    assert code(lambda: create(4000)) == errno.ESRCH
    assert code(lambda: create(0x7FF0)) == errno.ESRCH
    assert code(lambda: create(0)) == errno.EPERM
    assert code(lambda: create(them.domid, handle_bufioreq=3)) == errno.EINVAL


def test_seven_are_left_beside_the_device_model_s(them: Bindings) -> None:
    made = [them.server() for _ in range(7)]
    try:
        assert [server.id for server in made] == [1, 2, 3, 4, 5, 6, 7]
        assert code(them.server) == errno.ENOSPC
        made.pop(2).close()
        made.append(them.server())
        assert made[-1].id == 3, "the lowest that is free"
    finally:
        for server in made:
            server.close()


def test_a_server_that_is_not_there(them: Bindings) -> None:
    assert code(lambda: them.memory.ioreq_page(them.domid, 5)) == errno.ENOENT
    assert code(lambda: them.devices.call("destroy_ioreq_server", them.domid, id=5)) == errno.ENOENT
    assert code(lambda: them.memory.ioreq_page(4000, 0)) == errno.ESRCH
    assert code(lambda: IoreqServer(them.domid, them.devices, them.memory, them.channels, adopt=5)) == errno.ENOENT


@pytest.mark.parametrize("memory", [MEMORY, PORTS])
def test_ranges(server: IoreqServer, memory: bool) -> None:
    server.map_range(0x3000, 0x30FF, memory=memory)
    assert code(lambda: server.map_range(0x3000, 0x30FF, memory=memory)) == errno.EEXIST
    assert code(lambda: server.map_range(0x30FF, 0x31FF, memory=memory)) == errno.EEXIST
    assert code(lambda: server.map_range(0x3200, 0x31FF, memory=memory)) == errno.EINVAL
    server.map_range(0x3100, 0x31FF, memory=memory)  # merges
    server.unmap_range(0x30F0, 0x310F, memory=memory)  # a part of both
    assert code(lambda: server.unmap_range(0x30E0, 0x30F0, memory=memory)) == errno.ENOENT
    assert code(lambda: server.unmap_range(0x9000, 0x9000, memory=memory)) == errno.ENOENT
    server.map_range(0x30F0, 0x310F, memory=memory)
    server.unmap_range(0x3000, 0x31FF, memory=memory)


def test_another_server_may_have_the_same(them: Bindings, server: IoreqServer) -> None:
    server.map_range(0xF0000000, 0xF0000FFF, memory=True)
    server.claim_pci(0x80)
    with them.server() as other:
        other.map_range(0xF0000000, 0xF0000FFF, memory=True)
        other.claim_pci(0x80)


def test_there_is_no_check_of_what_a_range_is(server: IoreqServer) -> None:
    server.map_range(0xFFFF, 0x10000, memory=PORTS)
    server.map_range(0x12345, 0x12345, memory=MEMORY)
    server.unmap_range(0x12345, 0x12345, memory=MEMORY)
    server.map_range(0, (1 << 64) - 1, memory=MEMORY)


@pytest.mark.parametrize("memory", [MEMORY, PORTS])
def test_a_server_has_room_for_256_ranges_of_a_kind(server: IoreqServer, memory: bool) -> None:
    for i in range(256):
        server.map_range(0x4000 + 4 * i, 0x4001 + 4 * i, memory=memory)
    assert code(lambda: server.map_range(0x6000, 0x6001, memory=memory)) == errno.ENOMEM
    server.unmap_range(0x4000, 0x4001, memory=memory)
    server.map_range(0x6000, 0x6001, memory=memory)


def test_functions(them: Bindings, server: IoreqServer) -> None:
    server.claim_pci(0x1D << 3)
    assert code(lambda: server.claim_pci(0x1D << 3)) == errno.EEXIST
    server.release_pci(0x1D << 3)
    assert code(lambda: server.release_pci(0x1D << 3)) == errno.ENOENT
    for wrong in ({"device": 0x20}, {"function": 8}):
        address = {"segment": 0, "bus": 0, "device": 1, "function": 0} | wrong
        call = lambda: them.devices.call("map_pcidev_to_ioreq_server", them.domid, id=server.id, **address)  # noqa: B023, E731
        assert code(call) == errno.EINVAL


def test_the_page_can_be_mapped_twice_and_the_state_set_twice(them: Bindings, server: IoreqServer) -> None:
    with them.memory.ioreq_page(them.domid, server.id) as page:
        them.devices.set_server_state(page, enabled=False)
        them.devices.set_server_state(page, enabled=True)
        them.devices.set_server_state(page, enabled=True)
    with pytest.raises(ValueError, match="not mapped"):
        them.devices.set_server_state(page, enabled=True)


def test_ports_are_known_once_it_is_enabled_and_are_bound_once(them: Bindings, server: IoreqServer) -> None:
    assert server.slots.ports() == {}
    assert server.enable() == 1
    (port,) = server.slots.ports().values()
    assert code(lambda: them.channels.bind_interdomain(them.domid, port)) == errno.EINVAL
    assert code(lambda: them.channels.bind_interdomain(them.domid, 0x7777)) == errno.EINVAL
    assert code(lambda: them.channels.bind_interdomain(4000, port)) == errno.ESRCH
    assert not server.serve(lambda request: pytest.fail("there is no request")), (
        "binding raises an event, and nothing with it"
    )


def test_ports_that_are_not_ours(them: Bindings) -> None:
    assert code(lambda: them.channels.notify(999)) == errno.ENOTCONN
    assert code(lambda: them.channels.unbind(999)) == errno.ENOTCONN


def test_a_server_that_was_left_is_taken_over(them: Bindings) -> None:
    first = them.server()
    first.claim_pci(0x80)
    first.enable()
    first.abandon()
    with IoreqServer(them.domid, them.devices, them.memory, them.channels, adopt=first.id) as second:
        assert second.enable() == 1
        assert code(lambda: second.claim_pci(0x80)) == errno.EEXIST
    assert code(lambda: them.memory.ioreq_page(them.domid, first.id)) == errno.ENOENT


def test_closing_what_is_gone_is_not_an_error(them: Bindings) -> None:
    with them.server() as server:
        server.enable()
        them.devices.call("destroy_ioreq_server", them.domid, id=server.id)
    server.close()
