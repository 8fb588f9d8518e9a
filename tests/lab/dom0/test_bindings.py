# SPDX-License-Identifier: LGPL-2.1-only
"""The bindings on the real libraries, apart from what the contract covers."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import Guests, dump, sh
from xlplug.errors import StoreError, XenError, XenUnavailableError
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


def test_a_library_of_another_version_is_named(tmp_path: "os.PathLike[str]") -> None:
    root = os.path.join(tmp_path, "hypervisor")
    os.makedirs(f"{root}/version")
    for name, text in (("type", "xen"), ("version/major", "4"), ("version/minor", "99"), ("version/extra", ".1")):
        with open(f"{root}/{name}", "w") as file:
            file.write(f"{text}\n")
    with pytest.raises(XenUnavailableError) as caught:
        XenCtrl(root)
    assert str(caught.value) == "libxenctrl.so.4.99 is not installed; install it (Debian: libxenmisc4.99)"


def test_another_xen_s_library_is_found_out_before_any_change(tmp_path: Path) -> None:
    """A library that loads, of another Xen: it is told by a domctl, which changes nothing."""
    major, minor, text = lib.running_version()
    others = sorted(Path("/job").glob("lib-*"))
    assert others or (major, minor) == (4, 17), "the lab brings the older releases' libraries for the newer ones"
    before = dump()
    for folder in others:
        version = folder.name.removeprefix("lib-")
        root = tmp_path / version
        (root / "version").mkdir(parents=True)
        (root / "type").write_text("xen")
        for name, part in zip(("major", "minor"), version.split("."), strict=True):
            (root / "version" / name).write_text(part)
        (root / "version" / "extra").write_text(text.removeprefix(f"{major}.{minor}"))
        code = f"from xlplug.xen.ctrl import XenCtrl\ntry: XenCtrl('{root}')\nexcept Exception as e: print(type(e).__name__, e)"
        done = subprocess.run(
            ["python3", "-c", code], capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": str(folder)}
        )
        assert done.stderr == ""
        assert done.stdout.startswith("XenUnavailableError ")
        assert f"libxenctrl.so.{version}" in done.stdout
        if version < f"{major}.{minor}":  # a newer one may not even load: it wants a newer C library
            assert "does not speak to the running Xen" in done.stdout
            assert f"install libxenmisc{version}" in done.stdout
    assert dump() == before


def test_pausing_counts(guests: Guests) -> None:
    domid, _ = guests.make()
    with XenCtrl() as xen:
        xen.pause(domid)
        xen.unpause(domid)
        info = xen.domain_info(domid)
        assert info is not None
        assert info.paused, "created with xl create -p, one pause is still there"
        assert sh("xl", "vm-list").stdout.count(info.uuid) == 1


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


def test_device_model_operations(guests: Guests) -> None:
    domid, _ = guests.make()
    with DeviceModel() as dm:
        assert dm.nr_vcpus(domid) == 1
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
                dm.nr_vcpus(unknown)
            assert caught.value.errno == errno.ESRCH


def test_every_plain_operation_exists_in_the_library() -> None:
    loaded = lib.load_stable("xendevicemodel")
    for name in OPERATIONS:
        assert getattr(loaded, f"xendevicemodel_{name}")
