# SPDX-License-Identifier: LGPL-2.1-only
"""The display is what the lab says it is, and xlplug sees it so."""

import json
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import sh, xlplug
from tests.lab.igd import firmware
from tests.lab.igd.dom0.display import DISPLAY, LAST, ROOM, UNALIGNED, VBIOS_AT, host_memory, opregion, register, shadow


@pytest.mark.smoke
def test_an_intel_display_with_firmware_and_a_second_card() -> None:
    shown = sh("lspci", "-nn").stdout
    assert "00:02.0 VGA compatible controller [0300]: Intel Corporation" in shown
    assert f"[{firmware.VENDOR:04x}:{firmware.DEVICE:04x}]" in shown
    assert "00:09.0 VGA compatible controller [0300]" in shown
    assert register("fc.l") == UNALIGNED
    with host_memory() as memory:
        assert memory.read(UNALIGNED, 16) == firmware.SIGNATURE
        assert memory.read(VBIOS_AT, firmware.ROM_SIZE) == firmware.vbios()


def test_doctor_and_record_see_it(tmp_path: Path) -> None:
    text = xlplug("doctor").stdout
    assert f"OpRegion at {UNALIGNED:#x}, version 2.0, 8 KiB" in text
    assert f"VBIOS shadow at 0xc0000, {firmware.ROM_SIZE} bytes, of 8086:5916" in text
    path = tmp_path / "host.json"
    assert xlplug("record", "host", "-o", str(path)).returncode == 0
    host = json.loads(path.read_text())
    display = next(d for d in host["devices"] if d["bdf"] == DISPLAY)
    assert (display["boot_vga"], display["driver"]) == (True, "pciback")
    assert host["vbios"]["vendor"] == firmware.VENDOR
    assert host["opregion"]["maddr"] == UNALIGNED


def test_firmware_can_be_changed_and_is_put_back() -> None:
    with opregion(firmware.opregion(0x0201, rvda=0x2000, rvds=0x2400), LAST):
        assert f"OpRegion at {LAST:#x}, version 2.1, 8 KiB" in xlplug("doctor").stdout
    with host_memory() as memory:
        before = memory.read(*(ROOM[0], firmware.ROOM))
        with shadow(b"\x55\xaa\x02\xcb"):
            assert "VBIOS shadow at 0xc0000, 32768 bytes" not in xlplug("doctor").stdout
        assert memory.read(VBIOS_AT, firmware.ROM_SIZE) == firmware.vbios()
        assert memory.read(*(ROOM[0], firmware.ROOM)) == before
    assert register("fc.l") == UNALIGNED
