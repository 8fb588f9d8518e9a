# SPDX-License-Identifier: LGPL-2.1-only
"""What QEMU sees of the display at 00:02.0: a VBIOS of ours, and no ROM line."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.oracle import require
from xlplug.config.domain import DomainConfig
from xlplug.hook.device_view import View, require_vbios, view_of
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, HostError
from xlplug.model.host import HostSnapshot, PciDevice

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
ROOT = Path(__file__).parents[3]
LINE = "0x{:016x} 0x{:016x} 0x{:016x}\n"


def rom(vendor: int = 0x8086, size: int = 0x2000, claimed: int | None = None) -> bytes:
    """The header of an option ROM and a PCI data structure: PCI Firmware Specification 3.0, 5.1."""
    data = bytearray(size)
    data[:3] = bytes((0x55, 0xAA, (size if claimed is None else claimed) // 512))
    struct.pack_into("<H", data, 0x18, 0x40)
    struct.pack_into("<4sHH", data, 0x40, b"PCIR", vendor, 0x1234)
    return bytes(data)


@pytest.fixture
def display(host: Host) -> PciDevice:
    return next(d for d in host("igd-laptop").devices if d.bdf == Bdf(0, 0, 2, 0))


@pytest.fixture
def igd(config: Config) -> DomainConfig:
    return config('gfx_passthru="igd"\npci=["00:02.0"]\n')


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A folder of PCI functions with the display's: what QEMU reads there, a link and a folder."""
    folder = tmp_path / "devices"
    device = folder / "0000:00:02.0"
    (device / "power").mkdir(parents=True)
    (device / "power" / "state").write_text("D0\n")
    (device / "config").write_text("8086\n")
    (device / "driver").symlink_to("../../pciback")
    lines = [(0xF0000000, 0xF0FFFFFF, 0x140204), *[(0, 0, 0)] * 5, (0xC0000, 0xDFFFF, 0x212), *[(0, 0, 0)] * 6]
    (device / "resource").write_text("".join(LINE.format(*line) for line in lines))
    (device / "rom").write_bytes(rom())
    return folder


def test_keys_and_their_defaults(config: Config) -> None:
    assert (config("").rom, config("").hide_rom_line) == (True, True)
    assert (config("xlplug_rom=0\n").rom, config("xlplug_hide_rom_line=0\n").hide_rom_line) == (False, False)
    assert (config("xlplug_rom=1\n").rom, config("xlplug_hide_rom_line=1\n").hide_rom_line) == (True, True)
    assert config('xlplug_rom="/a b"\n').rom == "/a b"


def test_the_hosts_vbios_and_no_line(display: PciDevice, igd: DomainConfig, sysfs: Path) -> None:
    view = view_of(igd, [display], str(sysfs))
    assert view == View(rom(), hides_line=True, source="from host memory")
    assert view.lines() == [
        "0000:00:02.0: QEMU gets a copy of the VBIOS (8192 bytes, from host memory)",
        "0000:00:02.0: the ROM's line in sysfs 'resource' is hidden from QEMU",
    ]


@pytest.mark.parametrize("text", ["", 'gfx_passthru="igd"\ntype="pv"\n'])
def test_nothing_for_other_guests(config: Config, display: PciDevice, sysfs: Path, text: str) -> None:
    assert view_of(config(f'pci=["00:02.0"]\n{text}'), [display], str(sysfs)) is None


def test_nothing_for_other_addresses(igd: DomainConfig, display: PciDevice, sysfs: Path) -> None:
    assert view_of(igd, [display._replace(bdf=Bdf(0, 1, 0, 0))], str(sysfs)) is None
    assert view_of(igd, [], str(sysfs)) is None


def test_what_is_switched_off(config: Config, display: PciDevice, sysfs: Path) -> None:
    text = 'gfx_passthru="igd"\npci=["00:02.0"]\n'
    view = view_of(config(text + "xlplug_rom=0\n"), [display], str(sysfs))
    assert view is not None
    assert (view.vbios, view.hides_line, len(view.lines())) == (None, True, 1)
    view = view_of(config(text + "xlplug_hide_rom_line=0\n"), [display], str(sysfs))
    assert view is not None
    assert (view.vbios, view.hides_line, len(view.lines())) == (rom(), False, 1)
    assert view_of(config(text + "xlplug_rom=0\nxlplug_hide_rom_line=0\n"), [display], str(sysfs)) is None
    no_rom = display._replace(resources=tuple(r for r in display.resources if r != display.rom))
    assert view_of(config(text + "xlplug_rom=0\n"), [no_rom], str(sysfs)) is None


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "no ROM header (55 aa)"),
        (b"#!/bin/sh\n" * 10, "no ROM header (55 aa)"),
        (rom()[:0x40] + bytes(64), "no PCI data structure at offset 0x40"),
        (rom(vendor=0x10DE), "it is for vendor 10de, not 8086"),
        (rom(claimed=0x4000), "its header claims 16384 bytes of 8192"),
        (rom(claimed=0), "its header claims 0 bytes of 8192"),
        (rom() + bytes(0x20000), "larger than 128 KiB"),
    ],
)
def test_what_is_not_a_vbios(
    config: Config,
    igd: DomainConfig,
    host: Host,
    display: PciDevice,
    sysfs: Path,
    tmp_path: Path,
    data: bytes,
    fault: str,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    given = config(f'gfx_passthru="igd"\npci=["00:02.0"]\nxlplug_rom="{path}"\n')
    for ask in (
        lambda: view_of(given, [display], str(sysfs)),
        lambda: require_vbios(given, host("igd-laptop"), [display]),
    ):
        with pytest.raises(ConfigError) as caught:
            ask()
        where = "see docs/igd.md for where to get one [XLP214]"
        assert str(caught.value) == f"{path}: not a VBIOS for 0000:00:02.0: {fault}; {where}"
    (sysfs / "0000:00:02.0" / "rom").write_bytes(data)
    with pytest.raises(HostError) as refused:
        view_of(igd, [display], str(sysfs))
    assert str(refused.value).startswith(
        f"0000:00:02.0: no VBIOS for it in host memory ({fault}); set xlplug_rom to a file "
    )


def test_an_empty_vbios_is_one(config: Config, display: PciDevice, sysfs: Path, tmp_path: Path) -> None:
    """What is made up passes as a file, and Linux and QEMU would take it: its bytes add up to 0."""
    text = 'gfx_passthru="igd"\npci=["00:02.0"]\n'
    view = view_of(config(text + 'xlplug_rom="empty"\n'), [display], str(sysfs))
    assert view is not None
    assert view.vbios is not None
    assert (len(view.vbios), sum(view.vbios) & 0xFF, view.vbios[3]) == (512, 0, 0xCB)
    (tmp_path / "rom").write_bytes(view.vbios)
    again = view_of(config(text + f'xlplug_rom="{tmp_path}/rom"\n'), [display], str(sysfs))
    assert again is not None
    assert again.vbios == view.vbios


def test_what_cannot_be_read(config: Config, igd: DomainConfig, display: PciDevice, sysfs: Path) -> None:
    (sysfs / "0000:00:02.0" / "rom").unlink()
    with pytest.raises(HostError, match=r"no VBIOS for it in host memory .*: No such file or directory"):
        view_of(igd, [display], str(sysfs))
    with pytest.raises(ConfigError, match=r"^/none: xlplug_rom: No such file or directory; "):
        view_of(config('gfx_passthru="igd"\npci=["00:02.0"]\nxlplug_rom="/none"\n'), [display])
    with pytest.raises(ConfigError, match=r"^rom.bin: xlplug_rom: not an absolute path; "):
        view_of(config('gfx_passthru="igd"\npci=["00:02.0"]\nxlplug_rom="rom.bin"\n'), [display])


def test_a_host_whose_vbios_is_known_is_not_touched_beforehand(
    igd: DomainConfig, host: Host, display: PciDevice
) -> None:
    require_vbios(igd, host("igd-laptop"), [display])  # there is no such sysfs folder here


SEEN = """
import os, sys
sys.path.insert(0, {root!r})
from xlplug.hook.device_view import View, enter
folder = {folder!r}
enter(View({vbios!r}, hides_line=True, source="a test"), folder)
os.execv("/bin/sh", ["sh", "-c", {script!r}])
"""
#: What QEMU does: open for writing, write the byte 01, read everything; all in one descriptor.
AS_QEMU = (
    "cd {device}; ls; readlink driver; cat config power/state; cat resource; {python} -c '"
    'import os; fd = os.open("rom", os.O_RDWR)\n'
    "try: os.write(fd, bytes([1]))\n"
    'except PermissionError: print("EPERM")\n'
    "print(os.fstat(fd).st_size, os.pread(fd, 1 << 20, 0).hex())'"
)


def test_only_the_process_and_what_it_becomes_see_it(sysfs: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        require("root", "no right to mount in a namespace here")
    device = sysfs / "0000:00:02.0"
    before = {path.name: path.read_bytes() for path in device.iterdir() if path.is_file()}
    vbios = rom(size=0x2600)
    script = AS_QEMU.format(device=device, python=sys.executable)
    done = subprocess.run(
        [sys.executable, "-c", SEEN.format(root=str(ROOT), folder=str(sysfs), vbios=vbios, script=script)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    names, rest = done.stdout.split("../../pciback\n")
    assert names.split() == ["config", "driver", "power", "resource", "rom"]
    head, refused, image = rest.rpartition("EPERM\n")
    assert refused, "the copy can be written: its first byte would be QEMU's"
    lines = before["resource"].decode().splitlines(keepends=True)
    lines[6] = LINE.format(0, 0, 0)
    assert head == "8086\nD0\n" + "".join(lines)
    assert image.split() == ["16384", vbios.ljust(0x4000, b"\xff").hex()]
    assert {path.name: path.read_bytes() for path in device.iterdir() if path.is_file()} == before
