# SPDX-License-Identifier: LGPL-2.1-only
"""The VGA test guest behind a Linux stubdomain, and the card that it is given, as dom0 sees it."""

import functools
import mmap
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab.dom0.conftest import BASE, IGD, VGA, patience, sh

#: What the lab builds (tests/lab/stubdom), mounted in dom0.  The serial devices are for the QEMU in dom0: libxl gives a
#: stubdomain three consoles, and from 8.2 QEMU leaves one without a device unconnected, for which Linux then waits minutes.
STUBDOM = """\
device_model_version="qemu-xen"
device_model_stubdomain_override=1
stubdomain_kernel="/stubdom/kernel"
stubdomain_ramdisk="/stubdom/ramdisk"
stubdomain_memory=256
stubdomain_cmdline="console=hvc0 quiet"
device_model_args_pv=["-serial","null","-serial","null","-serial","null"]
"""
FIRMWARE = 'firmware_override="/stubdom/vgaguest"\n'

#: libxl's word when a stubdomain has not started within 30 s.  Source: tools/libs/light/libxl_internal.h,
#: LIBXL_STUBDOM_START_TIMEOUT.
TIMED_OUT = "startup timed out"

#: What vgaguest.S writes.
TEXT, CURSOR_HIGH, CURSOR_LOW = "xlplug was here", 0x5A, 0xA5
_NOISE = re.compile(r"xen be core: xs_(mkdir|set_permissions) device-model/\d+/backends/\w+: failed")


class Card:
    """The emulated display, through its own BARs: neither legacy ports nor legacy memory are used to look at it.

    Source: QEMU, docs/specs/standard-vga.rst (BAR 2: ports 3c0-3df from 0x400), hw/display/vga.c (planes in BAR 0).
    """

    _CRTC = 0x400 + 0x3D4 - 0x3C0
    _CELL = 4  # bytes of video memory for each cell of text: four planes, of which character and attribute use two

    def __init__(self, memory: mmap.mmap, registers: mmap.mmap) -> None:
        self.memory = memory
        self.registers = registers

    def crtc(self, index: int, value: int | None = None) -> int:
        """A register of the CRT controller, after writing ``value`` to it."""
        self.registers[self._CRTC] = index
        if value is not None:
            self.registers[self._CRTC + 1] = value
        return self.registers[self._CRTC + 1]

    @property
    def cursor(self) -> tuple[int, int]:
        return self.crtc(0x0E), self.crtc(0x0F)

    @property
    def text(self) -> str:
        """The first cells of the screen."""
        return bytes(self.memory[i * self._CELL] for i in range(len(TEXT))).decode("latin-1")

    def wipe(self) -> None:
        """Leave nothing there that looks like the guest's."""
        for i in range(len(TEXT)):
            self.memory[i * self._CELL] = ord(" ")
        self.crtc(0x0E, 0)
        self.crtc(0x0F, 0)
        assert (self.text.strip(), self.cursor) == ("", (0, 0)), "dom0 does not reach the card"


@contextmanager
def card() -> Iterator[Card]:
    folder = Path(f"/sys/bus/pci/devices/{VGA}")
    with (folder / "config").open("r+b", buffering=0) as config:
        config.seek(4)
        command = config.read(1)[0]
        config.seek(4)
        config.write(bytes([command | 2]))  # memory decoding, which pciback turns off when it takes a device
    with (
        (folder / "resource0").open("r+b") as memory,
        (folder / "resource2").open("r+b") as registers,
        mmap.mmap(memory.fileno(), 1 << 20) as one,
        mmap.mmap(registers.fileno(), 0x1000) as two,
    ):
        yield Card(one, two)


class Guest(NamedTuple):
    """A guest that has run.

    ``said`` is what it read back, by name; ``mapped``, Xen's lines about what was mapped for it; ``stderr``, xl's.
    """

    domid: int
    stubdom: int
    config: Path
    said: dict[str, str]
    mapped: list[str]
    stderr: str

    @property
    def log(self) -> list[str]:
        """QEMU's log in the stubdomain, without what QEMU says in every stubdomain, granted or not.

        It announces backends in xenstore there, where it may not (QEMU 7.2, 10.0: hw/xen/xen-legacy-backend.c).
        """
        lines = Path(f"/var/log/xen/qemu-dm-{self.config.stem}.log").read_text().splitlines()
        assert lines[0].endswith(f"domain {self.stubdom} serves domain {self.domid}"), lines
        return [line for line in lines[1:] if not _NOISE.fullmatch(line)]

    @property
    def console_log(self) -> str:
        """The log of the QEMU in dom0 that serves the stubdomain's consoles: our wrapper's too, when that ran."""
        return Path(f"/var/log/xen/qemu-dm-{self.config.stem}-dm.log").read_text()


@contextmanager
def creating(
    folder: Path, name: str, *options: str, path: str | None = None, extra: str = ""
) -> "Iterator[tuple[Path, subprocess.Popen[bytes]]]":
    """xl that creates the guest, and the guest's config; ``path`` is searched for xl before PATH."""
    config = folder / f"{name}.cfg"
    config.write_text(f'name="{name}"\n{BASE}{FIRMWARE}{STUBDOM}{IGD}{extra}')
    before = [] if path is None else ["env", f"PATH={path}:{os.environ['PATH']}"]
    try:
        with config.with_suffix(".stderr").open("wb") as stderr:
            process = subprocess.Popen([*before, "xl", "create", *options, str(config)], stderr=stderr)
        yield config, process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        sh("xl", "destroy", name)


def seen(config: Path, *, wait: bool = True) -> Guest:
    """The guest, once it has said everything."""
    domid = int(sh("xl", "domid", config.stem).stdout)
    stubdom = int(sh("xenstore-read", f"/local/domain/{domid}/image/device-model-domid").stdout)
    deadline = time.monotonic() + patience(30)
    prefix = f"(d{domid}) vgaguest: "  # no two domains of a boot have the same number
    while f"{prefix}end\n" not in (dmesg := sh("xl", "dmesg").stdout):
        if not wait:
            break
        assert time.monotonic() < deadline, f"the guest did not run: {dmesg[-2000:]}"
        time.sleep(0.2)
    lines = [line.removeprefix(prefix) for line in dmesg.splitlines() if line.startswith(prefix)]
    said = {what: value for what, equals, value in (line.partition("=") for line in lines) if equals}
    # Xen from 4.21 on calls a domain dN in both lines.
    marks = (f"ioport_map:add: dom{domid} ", f"ioport_map:add: d{domid} ", f"memory_map:add: d{domid} ")
    mapped = [
        line.partition("map:")[2].replace(f" d{domid} gport", f" dom{domid} gport")
        for line in dmesg.splitlines()
        if any(mark in line for mark in marks)
    ]
    return Guest(domid, stubdom, config, said, mapped, config.with_suffix(".stderr").read_text())


class GaveUpError(Exception):
    """libxl gave up waiting for the stubdomain: its limit is a constant, and too short for a busy machine."""


def created(config: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until xl has created the guest.

    Raises:
        GaveUpError: libxl had no patience.
    """
    status, stderr = process.wait(patience(120)), config.with_suffix(".stderr").read_text()
    if status != 0 and TIMED_OUT in stderr:
        raise GaveUpError(stderr)
    assert status == 0, stderr


def again_if_libxl_gives_up(test: Callable[..., None]) -> Callable[..., None]:
    """The test, tried up to three times."""

    @functools.wraps(test)
    def tried(*args: object, **fixtures: object) -> None:
        for last in (False, False, True):
            try:
                return test(*args, **fixtures)
            except GaveUpError:
                if last:
                    raise

    return tried


@contextmanager
def running(folder: Path, name: str, *, path: str | None = None, extra: str = "", wait: bool = True) -> Iterator[Guest]:
    """Create the guest, not paused, and wait until it has said everything; tried again when libxl gives up."""
    for last in (False, False, True):
        with creating(folder, name, path=path, extra=extra) as (config, process):
            try:
                created(config, process)
            except GaveUpError:
                if last:
                    raise
                continue
            yield seen(config, wait=wait)
            return
