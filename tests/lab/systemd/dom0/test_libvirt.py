# SPDX-License-Identifier: LGPL-2.1-only
"""Debian's libvirt with our wrapper as <emulator>, as hooks/README.md has it: started, rebooted, saved, restored, refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import discard, dump, journal, sh
from tests.lab.dom0.hooked import domid_of, guests_of_xen, until
from tests.lab.dom0.packaged import ok, run
from tests.lab.systemd.machine import DISPLAY
from xlplug.model.rangeset import RangeSet
from xlplug.xen.devicemodel import DeviceModel

PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
NAME = "virtual"
_REBOOT = 1  # SHUTDOWN_reboot.  Source: xen/include/public/sched.h
XML = f"""
<domain type='xen' xmlns:xen='http://libvirt.org/schemas/domain/xen/1.0'>
  <name>{NAME}</name>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type></os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/usr/lib/xlplug/device-model</emulator>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source><address domain='0' bus='1' slot='0' function='0'/></source>
    </hostdev>
  </devices>
  <xen:commandline><xen:arg value='-machine'/><xen:arg value='igd-passthru=on'/></xen:commandline>
</domain>
"""


def virsh(*argv: str) -> str:
    return ok("virsh", "-c", "xen:///system", *argv)


def granted(domid: int | None) -> bool:
    return domid is not None and 'state = "applied"' in journal(domid) and dump()[domid].ports == PORTS


@pytest.fixture(scope="module", autouse=True)
def libvirtd() -> Iterator[None]:
    ok("systemctl", "start", "libvirtd.service")
    yield
    ok("systemctl", "stop", "libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")


@pytest.fixture
def definition(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / f"{NAME}.xml"
    path.write_text(XML)
    yield path
    if domid_of(NAME) is not None:
        discard(NAME)
    run("virsh", "-c", "xen:///system", "undefine", NAME)
    assert until(lambda: guests_of_xen() == set())


def test_a_life_of_a_domain(definition: Path, tmp_path: Path) -> None:
    virsh("define", str(definition))
    virsh("start", NAME)
    domid = domid_of(NAME)
    assert granted(domid)
    assert DISPLAY in journal(domid or 0)

    # The guest's own reboot: libvirt makes a new domain of its definition.
    with DeviceModel() as model:
        model.call("shutdown", domid or 0, reason=_REBOOT)
    assert until(lambda: domid_of(NAME) not in (None, domid), 60)
    again = domid_of(NAME)
    assert until(lambda: granted(again)), sh("xenstore-ls", f"/libxl/{again}").stdout

    saved = tmp_path / "saved"
    assert until(lambda: virsh("domstate", NAME) == "running\n\n")
    virsh("save", NAME, str(saved))
    assert until(lambda: guests_of_xen() == set())
    virsh("restore", str(saved))
    restored = domid_of(NAME)
    assert restored not in (None, again)
    assert granted(restored)


def test_refused(definition: Path) -> None:
    """A transient domain has no definition that the wrapper could read.  The reason is where the manual says."""
    done = run("virsh", "-c", "xen:///system", "create", str(definition))
    assert done.returncode == 1
    assert "libxenlight failed to create new domain" in done.stderr
    assert until(lambda: guests_of_xen() == set())
    log = Path(f"/var/log/xen/qemu-dm-{NAME}.log").read_text()
    assert "xlplug: " in log
    assert len([line for line in log.splitlines() if line.startswith("xlplug: ")]) == 1, log
