# SPDX-License-Identifier: LGPL-2.1-only
"""What the device model reads: published, withdrawn, and forgotten with the guest."""

from xlplug.dom0 import nodes
from xlplug.execute.preload_nodes import sweep, withdraw
from xlplug.model.addr import Domid
from xlplug.model.hypervisor import DomainInfo
from xlplug.xen.in_memory import MemStore, MemXen


def test_the_folder_goes_with_the_last_guest() -> None:
    store = MemStore()
    for target in (7, 9):
        store.write(f"{nodes.preload(Domid(0))}/{target}/iomem", "1-2")
    withdraw(store, Domid(0), 7)
    assert store.list(nodes.preload(Domid(0))) == ["9"]
    withdraw(store, Domid(0), 9)
    assert store.read(nodes.preload(Domid(0))) is None


def test_only_guests_that_are_gone_are_forgotten() -> None:
    xen, store = MemXen((4, 17)), MemStore()
    xen.add_domain(DomainInfo(7))
    for name in ("7", "9", "x"):
        store.write(f"{nodes.preload(Domid(0))}/{name}/iomem", "1-2")
        store.write(nodes.vga(name), "")
    sweep(store, xen)
    assert sorted(store.list(nodes.preload(Domid(0)))) == ["7", "x"]
    assert sorted(store.list(nodes.vga())) == ["7", "x"]
