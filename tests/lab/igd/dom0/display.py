# SPDX-License-Identifier: LGPL-2.1-only
"""The Intel display of the lab's machine as dom0 sees it, and guests that look for it."""

import mmap
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab.dom0.conftest import BASE, discard, patience, sh
from tests.lab.dom0.hooked import STOCK
from tests.lab.dom0.vgaguest import TIMED_OUT
from tests.lab.igd import firmware

DISPLAY = "0000:00:02.0"
SYSFS = Path(f"/sys/bus/pci/devices/{DISPLAY}")
IGD = f'gfx_passthru="igd"\npci=["{DISPLAY}"]\n'
#: The reserved memory that SeaBIOS loads the OpRegion into: bytes, the last not included.
ROOM = (0x7FFF0000, 0x7FFF0000 + firmware.ROOM)
#: Where the OpRegion is when the machine has booted; and at the start of a page, the third page behind it not reserved.
UNALIGNED, LAST = ROOM[0] + firmware.OFFSET, ROOM[1] - firmware.SIZE
VBIOS_AT = 0xC0000
#: Where xlplug notes the address of the OpRegion that it has seen since boot, which may not change then.
PIN = Path("/run/xlplug/opregion")
QEMU_11 = "qemu-11"  # what the wrapper for the newest QEMU is called

#: What QEMU's log says, or xl, when it does not work, and how docs/igd.md puts it.
_FAILURES = {
    "VGA: VBIOS image corrupt (too small)": "fails: too small",
    "pci_register_bar: Assertion `!r->size' failed": "QEMU aborts",
    "Need to enable igd-passthru": "fails: needs igd-passthru",
    "no VBIOS for it in host memory": "refused",
}
#: What guest.c asks for, and what it writes.
GUEST_PAGE, MARK, MARK_AT = 0xE0000, 0x12345678, 0x200


class HostMemory:
    """The host's memory, reserved pages of it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, address: int, count: int) -> bytes:
        with self._page(address, count) as (page, at):
            return page[at : at + count]

    def write(self, address: int, data: bytes) -> None:
        with self._page(address, len(data)) as (page, at):
            page[at : at + len(data)] = data

    @contextmanager
    def _page(self, address: int, count: int) -> Iterator[tuple[mmap.mmap, int]]:
        start = address & ~0xFFF
        with mmap.mmap(self.fd, address + count - start, offset=start) as page:
            yield page, address - start


@contextmanager
def host_memory() -> Iterator[HostMemory]:
    fd = os.open("/dev/mem", os.O_RDWR | os.O_SYNC)
    try:
        yield HostMemory(fd)
    finally:
        os.close(fd)


def register(name: str, value: int | None = None) -> int:
    """A register of the display as setpci writes it (``fc.l``), after setting it."""
    if value is not None:
        assert sh("setpci", "-s", DISPLAY, f"{name}={value:x}").returncode == 0
    return int(sh("setpci", "-s", DISPLAY, name).stdout, 16)


@contextmanager
def opregion(data: bytes, address: int = UNALIGNED) -> Iterator[None]:
    """A machine that has booted with this OpRegion at this address; as it was before, afterwards."""
    with host_memory() as memory:
        start, count = ROOM[0], firmware.ROOM
        before, asls = memory.read(start, count), register("fc.l")
        memory.write(address, data)
        register("fc.l", address)
        PIN.unlink(missing_ok=True)
        try:
            yield
        finally:
            register("fc.l", asls)
            memory.write(start, before)
            PIN.unlink(missing_ok=True)


@contextmanager
def shadow(data: bytes) -> Iterator[None]:
    """The machine with something else at c0000 than its VBIOS.

    The chipset lets it be written to.  Source: Intel 3 Series Express Chipset datasheet, 5.1.19 and following (PAM1-PAM4).
    """
    registers = ("91.b", "92.b", "93.b", "94.b")
    bridge = "0000:00:00.0"
    before = [sh("setpci", "-s", bridge, name).stdout.strip() for name in registers]
    for name in registers:
        sh("setpci", "-s", bridge, f"{name}=33")
    try:
        with host_memory() as memory:
            was = memory.read(VBIOS_AT, firmware.ROM_SIZE)
            memory.write(VBIOS_AT, data.ljust(firmware.ROM_SIZE, b"\0"))
            assert memory.read(VBIOS_AT, len(data)) == data
            try:
                yield
            finally:
                memory.write(VBIOS_AT, was)
    finally:
        for name, value in zip(registers, before, strict=True):
            sh("setpci", "-s", bridge, f"{name}={value}")


class Guest(NamedTuple):
    """A guest that has said all it had to: what it saw, by name; Xen's lines about what was mapped for it."""

    domid: int
    config: Path
    said: dict[str, str]
    mapped: list[str]

    @property
    def log(self) -> str:
        """Of the device model in dom0, our wrapper's lines among it."""
        return Path(f"/var/log/xen/qemu-dm-{self.config.stem}.log").read_text()


class Creation(NamedTuple):
    """What ``xl create`` came to."""

    config: Path
    status: int
    stderr: str

    @property
    def log(self) -> str:
        path = Path(f"/var/log/xen/qemu-dm-{self.config.stem}.log")
        return path.read_text() if path.exists() else ""

    @property
    def outcome(self) -> str:
        """In a few words, as in docs/igd.md."""
        if self.status == 0:
            said = self.guest().said
            if said["signature"] != firmware.SIGNATURE.decode():
                return "no OpRegion"
            return "works" if said["vbios"] == firmware.ROM_TEXT.decode() else "OpRegion only"
        text = self.stderr + self.log
        return next((words for part, words in _FAILURES.items() if part in text), text)

    def guest(self) -> Guest:
        """The guest, once it has said everything."""
        assert self.status == 0, f"{self.stderr}\n{self.log}"
        domid = int(sh("xl", "domid", self.config.stem).stdout)
        prefix = f"(d{domid}) igdguest: "
        deadline = time.monotonic() + patience(60)
        while f"{prefix}end\n" not in (dmesg := sh("xl", "dmesg").stdout):
            assert time.monotonic() < deadline, f"the guest did not run: {dmesg[-2000:]}"
            time.sleep(0.2)
        lines = [line.removeprefix(prefix) for line in dmesg.splitlines() if line.startswith(prefix)]
        said = {what: value for what, equals, value in (line.partition("=") for line in lines) if equals}
        # Which of the two lines calls a domain domN, and not dN, depends on Xen's version.
        lines = [line.partition("map:add: ")[2] for line in dmesg.splitlines()]
        mapped = [line.replace(f"dom{domid} ", f"d{domid} ") for line in lines]
        mapped = [line for line in mapped if line.startswith(f"d{domid} ")]
        return Guest(domid, self.config, said, mapped)


@contextmanager
def created(
    folder: Path,
    name: str,
    extra: str = "",
    *,
    hooked: bool,
    firmware: str = "/job/igd/guest",
    argv: tuple[str, ...] = (),
) -> Iterator[Creation]:
    """A guest with the display, through the hook or past it, running; it is destroyed at the end."""
    config = folder / f"{name}.cfg"
    override = f'firmware_override="{firmware}"\n' if firmware else ""
    config.write_text(f'name="{name}"\n{BASE}{override}{IGD}{extra}')
    path = f"/usr/local/sbin:{STOCK}" if hooked else STOCK
    for last in (False, False, True):
        Path(f"/var/log/xen/qemu-dm-{name}.log").unlink(missing_ok=True)
        done = subprocess.run(
            ["xl", "create", *argv, str(config)],
            capture_output=True,
            text=True,
            timeout=patience(240),
            env={**os.environ, "PATH": path},
        )
        if done.returncode == 0 or TIMED_OUT not in done.stderr or last:
            break
        discard(name)
    try:
        yield Creation(config, done.returncode, done.stderr)
    finally:
        if sh("xl", "domid", name).returncode == 0:
            discard(name)
