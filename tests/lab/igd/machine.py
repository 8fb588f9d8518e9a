# SPDX-License-Identifier: LGPL-2.1-only
"""The machine with an Intel display at 00:02.0: Debian's QEMU 11.1 as emulator, and our vfio-user server beside it.

The display is 8086:5916 with BARs, a VBIOS that the machine's firmware shadows at c0000, and an OpRegion in reserved memory.
A second card, QEMU's own, is at 00:09.0: it answers legacy VGA cycles, which vfio-user has no way to.  dom0 finds in /job/igd
the test guest in two versions and the VBIOS; it can also mount the emulator's tree (`SHARE`).
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.igd import firmware
from tests.lab.igd.emulator import emulator
from tests.lab.tree import BuildError, Tree
from tests.lab.vm import REPO, Machine

HERE = Path(__file__).parent
#: The emulator's tree, as a share for dom0 to mount.
SHARE = "qemu11"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_FIRMWARE = ("usr/share/seabios", "usr/share/qemu", "usr/lib/ipxe/qemu")
#: Of the display and the other card, and the first of the shares; 00:01.0 stays free, 00:1f.x is the chipset's.
_SLOT, _OTHER, _SHARES = "2.0", "9.0", 0x10
_START_SECONDS = 20


@contextmanager
def with_igd(built: Tree, job: Path) -> Iterator[Machine]:
    """The machine; the server for its display ends with it."""
    root = emulator()
    folder = job / "igd"
    folder.mkdir()
    guest(folder / "guest")
    guest(folder / "garbage", "-DGARBAGE")
    (folder / "vbios").write_bytes(firmware.vbios())
    (folder / "opregion").write_bytes(firmware.opregion_file())
    with tempfile.TemporaryDirectory() as scratch, _served(Path(scratch) / "display") as display:
        yield Machine(
            qemu=(
                str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(root / _LIBRARIES),
                str(root / "usr/bin/qemu-system-x86_64"), *(word for path in _FIRMWARE for word in ("-L", str(root / path))),
            ),
            # caching-mode: without it QEMU refuses a device outside of it.
            iommu="intel-iommu,intremap=off,caching-mode=on",
            displays=(
                "-vga", "none", "-device",
                f'{{"driver":"vfio-user-pci","addr":"{_SLOT}","socket":{{"type":"unix","path":"{display}"}},'
                f'"romfile":"{folder / "vbios"}"}}',
                "-device", f"VGA,addr={_OTHER}",
                "-fw_cfg", f"name=etc/igd-opregion,file={folder / 'opregion'}",
            ),
            # dom0's memory need not be mapped for a display that does no DMA; Xen's quarantine domain would map everything.
            xen="dom0-iommu=passthrough iommu=no-quarantine",
            shares=((SHARE, root),),
            slot=_SHARES,
        )  # fmt: skip


@contextmanager
def _served(path: Path) -> Iterator[Path]:
    """The socket of a server that has begun to listen, and that dies with us."""
    server = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.lab.igd.server", str(path)],
        cwd=REPO, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + _START_SECONDS
        while not path.is_socket():
            if server.poll() is not None or time.monotonic() > end:
                raise BuildError("the display's server does not start")
            time.sleep(0.02)
        yield path
    finally:
        server.kill()
        server.wait()


def guest(path: Path, *options: str) -> None:
    """guest.c as an ELF file that Xen's domain builder loads where it would load hvmloader.

    Raises:
        BuildError: with what the compiler said.
    """
    flags = "-m32 -Os -Wall -Werror -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables"
    link = "-mgeneral-regs-only -nostdlib -static -Wl,-Ttext=0x100000,-N,--build-id=none,--no-warn-rwx-segments"
    done = subprocess.run(
        ["cc", *flags.split(), *link.split(), *options, "-o", str(path), str(HERE / "guest.c")],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(f"{HERE / 'guest.c'}: {done.stderr[-1500:]}")
