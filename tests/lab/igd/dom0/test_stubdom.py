# SPDX-License-Identifier: LGPL-2.1-only
"""The display passed through with QEMU in a Linux stubdomain: what docs/igd.md says must come out.

The lab's ramdisk brings a folder with a VBIOS for the display (stubdom/init.sh); without it QEMU gives up in every case.
"""

from pathlib import Path

import pytest

from tests.lab.dom0.conftest import dump, journal, sh
from tests.lab.dom0.vgaguest import STUBDOM
from tests.lab.igd import firmware
from tests.lab.igd.dom0.display import LAST, MARK, MARK_AT, UNALIGNED, Creation, created, host_memory, opregion
from tests.lab.igd.dom0.table import documented

FOLDER = STUBDOM.replace("quiet", "quiet xlplug.igd")
PRELOAD = FOLDER.replace("quiet", "quiet xlplug.preload=trace") + "xlplug_preload=1\n"
ALIGNED = LAST - 0x8000


def log(name: str) -> str:
    """Of the QEMU in the stubdomain."""
    return Path(f"/var/log/xen/qemu-dm-{name}.log").read_text()


def outcome(made: Creation) -> str:
    """In a few words, as in docs/igd.md: the guest's OpRegion and QEMU's word on VGA."""
    if made.status != 0:
        return (
            "fails: too small"
            if "VBIOS image corrupt (too small)" in log(made.config.stem) + made.stderr
            else made.stderr
        )
    said = made.guest().said
    opregion = "OpRegion" if said["signature"] == firmware.SIGNATURE.decode() else "no OpRegion"
    return f"{'no VGA' if 'VGA ioport mapping failed!' in log(made.config.stem) else 'VGA'}, {opregion}"


@pytest.mark.parametrize(
    ("row", "lines", "hooked", "where"),
    [
        ("stock xl", FOLDER, False, UNALIGNED),
        ("through the hook, QEMU without the preload library", FOLDER, True, UNALIGNED),
        ("through the hook, with the preload library", PRELOAD, True, UNALIGNED),
        ("the same, the OpRegion begins on a page", PRELOAD, True, ALIGNED),
    ],
    ids=["stock", "hooked", "preload", "page-aligned"],
)
def test_a_stubdomain(tmp_path: Path, column: str, row: str, lines: str, hooked: bool, where: int) -> None:
    before = dump()
    with opregion(firmware.opregion(), where), created(tmp_path, "stub", lines, hooked=hooked) as made:
        came = outcome(made)
        assert came == documented(row, f"{column} in a stubdomain"), log("stub")
        with host_memory() as memory:
            assert (memory.read(where + MARK_AT, 4) == MARK.to_bytes(4, "little")) == (came == "VGA, OpRegion")
        domid = made.guest().domid
    assert dump() == before
    assert journal(domid) == ""
    assert "stub" not in sh("xl", "list").stdout
