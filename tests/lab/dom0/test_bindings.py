# SPDX-License-Identifier: LGPL-2.1-only
"""The bindings on the real libraries, apart from what the contract covers."""

import errno
from pathlib import Path

import pytest

from tests.contract.versions import Behaviour
from tests.lab.dom0.conftest import Guests, sh
from xlplug.model.errors import StoreError, XenError, XenUnavailableError
from xlplug.xen import lib
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.devicemodel import OPERATIONS, DeviceModel
from xlplug.xen.store import XenStore


def test_versions_agree_with_xl() -> None:
    with XenCtrl() as xen:
        info = sh("xl", "info").stdout
        assert f"xen_version            : {xen.version_text}" in info
        assert {d.domid for d in xen.domains()} >= {0}


def test_the_machine_s_memory_map_has_its_ram() -> None:
    with XenCtrl() as xen:
        ram = sum(r.stop - r.start for r in xen.machine_memory_map() if r.kind == 1)
    total = int(sh("xl", "info").stdout.split("total_memory")[1].split(":")[1].split()[0])
    assert abs((ram >> 20) - total) <= 1


def test_a_mapping_for_a_domain_that_is_not_there_below_one_that_is(guests: Guests, does: Behaviour) -> None:
    """What libxenctrl itself says, which our binding makes ESRCH of: the contract suite."""
    gone, _ = guests.make()
    guests.make()
    guests.destroy(gone)
    with XenCtrl() as xen:
        lib.ffi.errno = errno.EPERM
        assert xen._lib.xc_domain_memory_mapping(xen._xch, gone, 0xA0, 0xA0, 1, 1) == does.mapping_for_no_domain
        assert lib.ffi.errno == (errno.ESRCH if does.mapping_for_no_domain == -1 else errno.EPERM)


def test_pausing_counts(guests: Guests) -> None:
    domid, _ = guests.make()
    with XenCtrl() as xen:
        xen.pause(domid)
        xen.unpause(domid)
        info = xen.domain_info(domid)
        assert info is not None
        assert info.paused, "created with xl create -p, one pause is still there"
        assert sh("xl", "vm-list").stdout.count(info.uuid) == 1


def test_the_xenstore_library(does: Behaviour) -> None:
    with XenStore():
        loaded = Path("/proc/self/maps").read_text()
    assert f"/{does.libxenstore}" in loaded


def test_xenstore_round_trip() -> None:
    with XenStore() as store:
        store.write("/tool/xlplug-test/a/b", "text é")
        assert store.read("/tool/xlplug-test/a/b") == "text é"
        assert store.read("/tool/xlplug-test/a") == ""
        assert store.list("/tool/xlplug-test") == ["a"]
        store.remove("/tool/xlplug-test")
        store.remove("/tool/xlplug-test")
        assert store.read("/tool/xlplug-test/a/b") is None
        assert store.list("/tool/xlplug-test") == []
        with pytest.raises(StoreError) as caught:
            store.write("no such path!", "x")
        assert "EINVAL" in str(caught.value)


def test_device_model_operations(guests: Guests, does: Behaviour) -> None:
    domid, _ = guests.make()
    with DeviceModel() as dm:
        if does.devicemodel_1_4:
            assert dm.nr_vcpus(domid) == 1
        else:
            with pytest.raises(XenUnavailableError, match=r"no xendevicemodel_nr_vcpus; it came with Xen 4\.15"):
                dm.nr_vcpus(domid)
        server = dm.create_ioreq_server(domid, handle_bufioreq=0)
        dm.call("map_io_range_to_ioreq_server", domid, id=server, is_mmio=0, start=0x1234, end=0x1237)
        dm.call("map_pcidev_to_ioreq_server", domid, id=server, segment=0, bus=0, device=9, function=0)
        dump = sh("sh", "-c", "xl debug-keys q; xl dmesg").stdout
        assert "1234-1237" in dump
        dm.call("unmap_io_range_from_ioreq_server", domid, id=server, is_mmio=0, start=0x1234, end=0x1237)
        dm.call("unmap_pcidev_from_ioreq_server", domid, id=server, segment=0, bus=0, device=9, function=0)
        dm.call("destroy_ioreq_server", domid, id=server)
        dm.modified_memory_bulk(domid, [(0, 1)])
        for unknown in (4000, 0x7FF0):
            with pytest.raises(XenError) as caught:
                dm.call("set_isa_irq_level", unknown, irq=5, level=0)
            assert caught.value.errno == errno.ESRCH


def test_every_plain_operation_exists_in_the_library(does: Behaviour) -> None:
    loaded = lib.load_stable("xendevicemodel")
    absent = {name for name in OPERATIONS if not lib.has(loaded, f"xendevicemodel_{name}")}
    assert absent == (set() if does.devicemodel_1_4 else {"set_irq_level"})
