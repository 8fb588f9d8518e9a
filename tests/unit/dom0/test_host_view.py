# SPDX-License-Identifier: LGPL-2.1-only
"""The live host view: real libudev on described hosts, and firmware headers in a file that stands for /dev/mem."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.oracle import require
from xlplug.config.domain import DomainConfig, PciAssignment
from xlplug.dom0 import opregion_pin, pci
from xlplug.dom0.firmware import read_firmware, read_mmcfg, read_vbt
from xlplug.dom0.os_release import distribution
from xlplug.dom0.pci import function, functions, owners
from xlplug.model.bdf import Bdf
from xlplug.model.errors import HostError
from xlplug.model.firmware_headers import OPREGION_HEADER, parse_mcfg, parse_opregion, parse_vbios
from xlplug.model.host import HostSnapshot, OpRegion, PciDevice
from xlplug.model.rangeset import Range
from xlplug.plan import build
from xlplug.xen.in_memory import MemStore

Host = Callable[[str], HostSnapshot]
ROOT = Path(__file__).parents[3]


def describe(device: PciDevice) -> str:
    """A device as umockdev describes one."""
    lines = [f"P: /devices/pci0000:00/{device.bdf}", "E: SUBSYSTEM=pci"]
    for name, value in (
        ("vendor", f"0x{device.vendor:04x}"),
        ("device", f"0x{device.device:04x}"),
        ("class", f"0x{device.class_code:06x}"),
    ):
        lines.append(f"A: {name}={value}\\n")
    table = ["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * 7
    for r in device.resources:
        table[r.line] = f"0x{r.start:016x} 0x{r.stop - 1:016x} 0x{r.flags:016x}"
    lines.append("A: resource=" + "\\n".join(table) + "\\n")
    lines.append(f"H: config={device.config.hex().upper()}")
    if device.boot_vga is not None:
        lines.append(f"A: boot_vga={int(device.boot_vga)}\\n")
    if device.driver:
        lines.append(f"E: DRIVER={device.driver}")
        lines.append(f"L: driver=../../../bus/pci/drivers/{device.driver}")
    if device.iommu_group is not None:
        lines.append(f"L: iommu_group=../../../kernel/iommu_groups/{device.iommu_group}")
    if device.physfn is not None:
        lines.append(f"L: physfn=../{device.physfn}")
    return "\n".join(lines) + "\n\n"


@pytest.mark.parametrize("name", ["igd-laptop", "sriov-igd", "server-bmc", "discrete-amd", "raptor-lake"])
def test_sysfs_shows_what_was_recorded(host: Host, name: str, tmp_path: Path) -> None:
    if shutil.which("umockdev-run") is None:
        require("umockdev", "umockdev is not installed")
    recorded = host(name)
    description = tmp_path / "host.umockdev"
    description.write_text("".join(describe(d) for d in recorded.devices))
    code = (
        "from xlplug.dom0 import pci, recording\nfrom xlplug.model import host\n"
        "print(recording.dump_host(host.HostSnapshot('seen', pci.everything()[0])))"
    )
    done = subprocess.run(
        ["umockdev-run", "-d", str(description), "--", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    from xlplug.dom0.recording import dump_host

    wanted = json.loads(dump_host(HostSnapshot("seen", recorded.devices)))
    assert json.loads(done.stdout)["devices"] == wanted["devices"]


def sysfs(folder: Path, name: str, **files: str) -> None:
    (folder / name).mkdir()
    plain = {"vendor": "0x8086", "device": "1", "class": "0x020000", "resource": "", "config": ""}
    for file, text in (plain | files).items():
        (folder / name / file).write_text(text)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"class": "what"}, "invalid literal for int() with base 16: 'what'"),
        ({"resource": "1 2\n"}, "not enough values to unpack (expected 3, got 2)"),
        ({"vendor": "\xff"}, "'ascii' codec can't decode byte"),
    ],
)
def test_one_odd_function_does_not_hide_the_others(tmp_path: Path, files: dict[str, str], why: str) -> None:
    sysfs(tmp_path, "0000:00:01.0")
    sysfs(tmp_path, "0000:00:02.0", **files)
    sysfs(tmp_path, "10000:e0:06.0")  # Intel's VMD: a segment that Xen has no number for
    wanted = tuple((Bdf.parse(f"00:0{number}.0"), False) for number in (1, 2, 9))
    devices, notes = functions(wanted, sys_pci=str(tmp_path))
    assert [str(device.bdf) for device in devices] == ["0000:00:01.0"]
    assert [note.about for note in notes] == ["0000:00:02.0"]
    assert notes[0].problem.what.startswith(f"PCI function 0000:00:02.0 cannot be read: {why}")
    assert function(f"{tmp_path}/10000:e0:06.0", {}) is None
    config = DomainConfig(type="hvm", gfx_passthru="igd", pci=(PciAssignment(Bdf.parse("00:02.0")),))
    refusals = build(config, HostSnapshot("h", devices, notes=notes)).refusals
    assert refusals[0] == notes[0].problem, "why it cannot be assigned"


@pytest.mark.parametrize("text", ["", "0000:00:02", "what", "0000:00:02.0\0"])
def test_odd_backend_nodes_own_nothing(text: str) -> None:
    store = MemStore()
    store.write("/local/domain/0/backend/pci/3/0/dev-0", text.rstrip("\0"))
    store.write("/local/domain/0/backend/pci/" + "9" * 200 + "/0/dev-0", "0000:00:02.0")
    expected = {} if "." not in text else {Bdf.parse("00:02.0"): 3}
    assert owners(store) == expected


def test_owners_are_the_targets_not_their_stubdomains() -> None:
    store = MemStore()
    for domid, bdf in ((3, "0000:00:02.0"), (4, "0000:00:02.0"), (5, "0000:07:00.0")):
        store.write(f"/local/domain/0/backend/pci/{domid}/0/dev-0", bdf)
        store.write(f"/local/domain/0/backend/pci/{domid}/0/num_devs", "1")
    store.write("/local/domain/4/target", "3")
    assert owners(store) == {Bdf(0, 0, 2, 0): 3, Bdf(0, 7, 0, 0): 5}


def opregion(size_kib: int = 8) -> bytes:
    data = bytearray(8192)
    data[:16] = b"IntelGraphicsMem"
    data[0x10:0x14] = size_kib.to_bytes(4, "little")
    data[0x16:0x18] = b"\x01\x02"
    data[0x3BA:0x3C2] = (0x2000).to_bytes(8, "little")
    data[0x3C2:0x3C6] = (0x1234).to_bytes(4, "little")
    return bytes(data)


def rom(vendor: int = 0x8086) -> bytes:
    data = bytearray(0x10000)
    data[:3] = b"\x55\xaa\x7e"
    data[0x18:0x1A] = (0x40).to_bytes(2, "little")
    data[0x40:0x48] = b"PCIR" + vendor.to_bytes(2, "little") + b"\x16\x59"
    return bytes(data)


def memory_file(path: Path, pieces: dict[int, bytes]) -> str:
    """A sparse file that stands for /dev/mem."""
    with path.open("wb") as file:
        for at, data in pieces.items():
            file.seek(at)
            file.write(data)
    return str(path)


def test_firmware_headers_are_read(host: Host, tmp_path: Path) -> None:
    laptop = host("igd-laptop")
    mem = memory_file(tmp_path / "mem", {0xC0000: rom(), 0x7A18D018: opregion()})
    region, vbios, notes = read_firmware(laptop.devices, laptop.memory, mem)
    assert notes == ()
    assert region == (0x7A18D018, b"IntelGraphicsMem", 8192, 0x0201, 0x2000, 0x1234)
    assert vbios == (0xC0000, 0x7E * 512, 0x8086, 0x5916)


def test_nothing_outside_reserved_memory_is_read(host: Host, tmp_path: Path) -> None:
    ram = host("igd-opregion-in-ram")
    mem = memory_file(tmp_path / "mem", {0xC0000: rom(), 0x40000000: opregion()})
    region, _, notes = read_firmware(ram.devices, ram.memory, mem)
    assert region is None
    assert "page 40000 is RAM" in str(notes[0])
    assert read_firmware(ram.devices, (), mem)[0] is None


def test_what_cannot_be_read_is_noted(host: Host, tmp_path: Path) -> None:
    laptop = host("igd-laptop")
    for mem in (str(tmp_path / "absent"), memory_file(tmp_path / "short", {0: b"x"})):
        region, vbios, notes = read_firmware(laptop.devices, laptop.memory, mem)
        assert (region, vbios) == (None, None)
        assert len(notes) == 2


@pytest.mark.parametrize("data", [b"", b"\x55\xaa", bytes(0x10000), rom()[:0x43], rom().replace(b"PCIR", b"PCIX")])
def test_what_is_no_vbios(data: bytes) -> None:
    with pytest.raises(HostError, match="VBIOS shadow"):
        parse_vbios(data, 0xC0000)


def test_a_short_opregion() -> None:
    with pytest.raises(HostError, match="OpRegion"):
        parse_opregion(bytes(OPREGION_HEADER - 1), 0)


def test_a_vbt_is_read_from_where_the_header_says(host: Host, tmp_path: Path) -> None:
    laptop = host("igd-laptop")
    table = b"$VBT KABYLAKE-Y     " + bytes(4) + (1500).to_bytes(2, "little")
    table += bytes(range(256)) * 5 + bytes(1500 - len(table) - 1280)
    inner = laptop._replace(opregion=laptop.opregion and laptop.opregion._replace(version=0x0200))
    mem = memory_file(tmp_path / "inner", {0x7A18D018 + 0x400: table + bytes(8192)})
    assert read_vbt(inner, mem) == table
    beyond = laptop._replace(
        opregion=laptop.opregion and laptop.opregion._replace(version=0x0201, rvda=0x2000, rvds=2000)
    )
    mem = memory_file(tmp_path / "beyond", {0x7A18D018 + 0x2000: table + bytes(8192)})
    assert read_vbt(beyond, mem) == table


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "no VBT where the OpRegion says"),
        ({"version": 0x0201, "rvda": 0x2000, "rvds": 100}, "claims 1500 bytes, and 100 are there"),
        ({"version": 0x0201, "rvda": 0x2000, "rvds": 1 << 21}, "claims a VBT of 2097152 bytes"),
        ({"version": 0x0200, "rvda": 0x40000000, "rvds": 0x1000}, "page 40000 is RAM"),
        ({"version": 0x0200, "rvda": 0xE0000000, "rvds": 0x1000}, "register of PCI configuration"),
        ({"version": 0x0200, "rvda": (1 << 64) - 1, "rvds": 0x1000}, "in no entry of the E820 map"),
    ],
)
def test_a_vbt_is_not_read_from_elsewhere(host: Host, tmp_path: Path, change: dict[str, int], says: str) -> None:
    laptop = host("igd-laptop")
    assert laptop.opregion is not None
    table = b"$VBT" + bytes(20) + (1500).to_bytes(2, "little") + bytes(2000)
    mem = memory_file(tmp_path / "mem", {0x7A18D018 + 0x2000: table, 0x7A190000: bytes(1 << 16)})
    with pytest.raises(HostError, match=re.escape(says)):
        read_vbt(laptop._replace(opregion=laptop.opregion._replace(**change)), mem)
    with pytest.raises(HostError, match="no OpRegion was read"):
        read_vbt(laptop._replace(opregion=None), mem)
    with pytest.raises(HostError, match="memory map is not known"):
        read_vbt(laptop._replace(memory=()), mem)
    with pytest.raises(HostError, match="no Intel display"):
        read_vbt(laptop._replace(opregion=None, devices=()), mem)


def test_acpi_s_table_of_configuration_windows(tmp_path: Path) -> None:
    def entry(base: int, first: int, last: int) -> bytes:
        return base.to_bytes(8, "little") + bytes(2) + bytes((first, last)) + bytes(4)

    data = b"MCFG" + bytes(40) + entry(0xE0000000, 0, 0xFF) + entry(0x100000000, 0x40, 0x41) + entry(0, 9, 8)
    wanted = (Range(0xE0000000, 0xF0000000), Range(0x104000000, 0x104200000))
    assert parse_mcfg(data) == parse_mcfg(data + bytes(15)) == wanted
    (tmp_path / "MCFG").write_bytes(data)
    assert read_mmcfg(str(tmp_path / "MCFG")) == wanted
    (tmp_path / "MCFG").write_bytes(b"FACP" + data[4:])
    assert read_mmcfg(str(tmp_path / "MCFG")) == read_mmcfg(str(tmp_path / "none")) == ()
    assert parse_mcfg(data[:44]) == ()
    with pytest.raises(HostError):
        parse_mcfg(data[:43])


def test_what_xl_cannot_name_is_noted(tmp_path: Path) -> None:
    sysfs(tmp_path, "0000:00:1f.0", resource="0x0 0xfff 0x20040200\n" + "0x0 0x0 0x0\n" * 6)
    sysfs(tmp_path, "10000:e0:17.0")
    sysfs(tmp_path, "0000:00:1e.0", vendor="nonsense")
    devices, notes = pci.everything(sys_pci=str(tmp_path))
    assert [str(device.bdf) for device in devices] == ["0000:00:1f.0"]
    assert [(r.start, r.stop, r.has_address) for r in devices[0].resources] == [(0, 0x1000, False)]
    assert [note.about for note in notes] == ["0000:00:1e.0", "unnamed"]
    assert "10000:e0:17.0: behind Intel VMD" in str(notes[1])
    slot = functions(((Bdf(0, 0, 0x1E, 0), True),), sys_pci=str(tmp_path))
    assert (slot[0], len(slot[1])) == ((), 1)
    assert pci.everything(sys_pci=str(tmp_path / "none")) == ((), ())
    assert functions(((Bdf(0, 0, 0x1E, 0), True),), sys_pci=str(tmp_path / "none")) == ((), ())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("NAME=x\nID=debian\n", "debian"), ('ID="qubes"\n', "qubes"), ("VERSION_ID=12\n", ""), ("", "")],
)
def test_the_distribution(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "os-release").write_text(text)
    assert distribution(str(tmp_path / "os-release")) == wanted
    assert distribution(str(tmp_path / "none")) == ""


REGION = OpRegion(0x7A18D018, b"IntelGraphicsMem", 8192, 0x0200)


def test_the_first_address_seen_is_remembered(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        require("root", "only root pins")
    folder = str(tmp_path / "run")
    assert opregion_pin.pinned(folder) is None
    assert opregion_pin.remember(None, folder) is None
    assert opregion_pin.remember(REGION._replace(signature=b"x"), folder) is None, "not a good header"
    assert opregion_pin.remember(REGION, folder) == 0x7A18D018
    assert opregion_pin.remember(REGION._replace(maddr=0x1000), folder) == 0x7A18D018
    assert opregion_pin.pinned(folder) == 0x7A18D018
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.stat(f"{folder}/opregion").st_mode & 0o777 == 0o600
    assert os.listdir(folder) == ["opregion"]


def test_a_pin_that_others_could_write_matches_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        require("root", "only root pins")
    folder = tmp_path / "run"
    opregion_pin.remember(REGION, str(folder))
    path = folder / "opregion"
    for target in (folder, path):
        for mode in (0o720, 0o702):
            target.chmod(mode)
            assert opregion_pin.pinned(str(folder)) == 0
        target.chmod(0o700)
    os.chown(path, 1, 0)
    assert opregion_pin.pinned(str(folder)) == 0
    os.chown(path, 0, 0)
    assert opregion_pin.pinned(str(folder)) == 0x7A18D018
    path.write_text("nonsense")
    assert opregion_pin.pinned(str(folder)) == 0
    path.unlink()
    path.symlink_to("/dev/null")
    assert opregion_pin.pinned(str(folder)) == 0
    path.unlink()
    path.mkdir()
    assert opregion_pin.pinned(str(folder)) == 0
