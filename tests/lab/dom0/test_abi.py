# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug abi`` on the QEMU that this release's xl starts, which is the one that runs here."""

import json
import shutil
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import sh, xlplug
from xlplug.hook.device_model import default_path
from xlplug.xen.lib import running_version

pytestmark = pytest.mark.smoke
VERSION = running_version()
QEMU = default_path(VERSION[:2])
#: The thread's sixteen; QEMU 10.0 has two more, for a PVH dom0.
THREAD = {
    "xlplug": {"xc_domain_iomem_permission", "xc_domain_populate_physmap_exact"},
    "shared": {"xc_domain_ioport_mapping", "xc_domain_memory_mapping"},
    "dmop": {"xc_domain_shutdown", "xc_get_hvm_param"},
    "hypercall": {"xc_physdev_map_pirq", "xc_physdev_map_pirq_msi", "xc_physdev_unmap_pirq"},
    "unstable": {
        "xc_set_hvm_param", "xc_domain_bind_pt_pci_irq", "xc_domain_unbind_pt_irq", "xc_domain_unbind_msi_irq",
        "xc_domain_update_msi_irq",
    },
    "last": {"xc_interface_open", "xc_interface_close"},
}  # fmt: skip
PVH_DOM0 = {"xc_physdev_map_pirq_gsi", "xc_pcidev_get_gsi"}


def test_the_installed_device_model() -> None:
    done = xlplug("abi", "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["program"] == QEMU
    assert report["running"] == VERSION[2]
    assert report["problems"] == []
    found: dict[str, set[str]] = {}
    for symbol in report["unstable"]:
        assert symbol["library"] == f"libxenctrl.so.{VERSION[0]}.{VERSION[1]}"
        found.setdefault(symbol["owner"], set()).add(symbol["function"])
    newer = PVH_DOM0 if VERSION[:2] >= (4, 20) else set()
    assert found == THREAD | {"hypercall": THREAD["hypercall"] | newer}
    assert all(Path(library["path"]).exists() for library in report["libraries"])
    assert [lib["soname"] for lib in report["libraries"] if not lib["stable"]] == [symbol["library"]]
    assert "It was built for the running Xen" in xlplug("abi").stdout


def test_another_releases_device_model(tmp_path: Path) -> None:
    """The same program, of which the name of its library says that it is another Xen's."""
    other = tmp_path / "qemu"
    shutil.copy(QEMU, other)
    data, own = other.read_bytes(), f"libxenctrl.so.{VERSION[0]}.{VERSION[1]}\0".encode()
    assert data.count(own) == 1
    other.write_bytes(data.replace(own, b"libxenctrl.so.4.99\0"))
    done = xlplug("abi", str(other))
    assert done.returncode == 1
    assert f"PROBLEM: it needs libxenctrl.so.4.99, but Xen {VERSION[2]} is running" in done.stdout
    assert sh(str(other), "-version").returncode != 0, "nor does it start"
