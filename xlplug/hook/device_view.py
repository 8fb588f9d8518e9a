# SPDX-License-Identifier: LGPL-2.1-only
"""What a QEMU in dom0 sees of the display at host 0000:00:02.0: its sysfs folder, changed for that process alone.

QEMU reads that display's VBIOS from ``rom`` in the folder, and refuses the device without one (hw/xen/xen_pt_graphics.c,
xen_pt_setup_vga).  Stock, this fails in three ways:

* To enable ``rom``, QEMU writes the byte 01 (xen_pt_load_rom.c).  Linux 5.10 accepts it; Debian's 6.1 and 6.12 want the text
  "1".  Here QEMU finds a copy of the VBIOS, which nobody has to enable.
* UEFI firmware leaves no VBIOS at c0000.  The copy is then made from a file that the administrator names.
* QEMU 10 registers the ROM a second time if ``resource`` has a line for it, and aborts.  Here that line is empty.

The wrapper mounts its version over the folder, in a mount namespace of its own that QEMU inherits.  The namespace ends with
QEMU, so there is nothing to undo; a guest that reboots gets a new one.  Mounts and unmounts in dom0 still propagate into it
where dom0's mounts are shared, as systemd makes them.
"""

import fcntl
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, HostError
from xlplug.model.firmware_headers import parse_vbios
from xlplug.model.host import ROM_INDEX, HostSnapshot, PciDevice

__all__ = ["DISPLAY", "View", "enter", "require_vbios", "view_of"]

#: QEMU treats any display at this address as Intel's.  Source: hw/xen/xen_pt.c, xen_pt_realize.
DISPLAY = Bdf(0, 0, 2, 0)
#: Where QEMU puts the VBIOS in the guest, and where the area for option ROMs of displays ends: PC/AT memory layout.
_SHADOW, _SHADOW_STOP = 0xC0000, 0xE0000
_NO_LINE = b"0x%016x 0x%016x 0x%016x\n" % (0, 0, 0)
_FIRST_FD = 64  # out of the way of what QEMU expects at small numbers

# Source: linux/sched.h, linux/mount.h, and x86-64's system call table.
_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x80000
_SYS_MOUNT, _SYS_UNSHARE = 165, 272

#: In place of a file's name: a ROM that does nothing.  A driver that takes what it needs from the OpRegion misses no VBIOS.
EMPTY = "empty"

_FILE_HINT = 'set xlplug_rom to a file that holds this display\'s VBIOS, or to "empty" for a guest that needs none; see docs/igd.md'


class View(NamedTuple):
    """What QEMU sees instead of the real files.

    ``vbios`` is the image for ``rom``, None for the real one; ``hides_line`` says whether ``resource`` lacks the ROM's line;
    ``source`` says where the VBIOS comes from.
    """

    vbios: bytes | None
    hides_line: bool
    source: str = ""

    def lines(self) -> list[str]:
        """One line for each difference, for the log."""
        found = []
        if self.vbios is not None:
            found.append(f"{DISPLAY}: QEMU gets a copy of the VBIOS ({len(self.vbios)} bytes, {self.source})")
        if self.hides_line:
            found.append(f"{DISPLAY}: the ROM's line in sysfs 'resource' is hidden from QEMU")
        return found


def require_vbios(config: DomainConfig, host: HostSnapshot, devices: Iterable[PciDevice]) -> None:
    """See, before anything is created, that the wrapper will find a VBIOS for QEMU.

    Raises:
        ConfigError, HostError: it will not; see `view_of`.
    """
    device = next((d for d in devices if d.bdf == DISPLAY), None)
    known = device is not None and host.vbios is not None and host.vbios.vendor == device.vendor
    if device is not None and (isinstance(config.rom, str) or not known):
        view_of(config, (device,))


def view_of(config: DomainConfig, devices: Iterable[PciDevice], folder: str = "/sys/bus/pci/devices") -> View | None:
    """What the QEMU in dom0 that serves this domain should see; None where the real files will do.

    Raises:
        ConfigError: the file given as VBIOS is not one for this display.
        HostError: the host has no VBIOS for it, and no file is given.
    """
    device = next((d for d in devices if d.bdf == DISPLAY), None)
    if device is None or config.gfx_passthru is None or config.type != "hvm":
        return None
    vbios, source = None, ""
    if config.rom == EMPTY:
        vbios, source = _empty(device), "which does nothing"
    elif isinstance(config.rom, str):
        vbios, source = _file(config.rom, device), config.rom
    elif config.rom:
        vbios, source = _shadow(f"{folder}/{DISPLAY}/rom", device), "from host memory"
    hides = config.hide_rom_line and device.rom is not None
    return View(vbios, hides, source) if vbios is not None or hides else None


def _empty(device: PciDevice) -> bytes:
    """An option ROM of 512 bytes whose initialisation returns at once.  Source: PCI Firmware Specification 3.0, 5.1."""
    pcir = struct.pack("<4sHHHHB3sHHBB", b"PCIR", device.vendor, device.device, 0, 24, 0, b"\0\0\3", 1, 0, 0, 0x80)
    rom = bytearray(b"\x55\xaa\x01\xcb".ljust(0x18, b"\0") + b"\x1c\0\0\0" + pcir).ljust(512, b"\0")  # cb: retf
    rom[-1] = -sum(rom) & 0xFF
    return bytes(rom)


def _file(path: str, device: PciDevice) -> bytes:
    """The VBIOS from the administrator's file."""
    hint = "see docs/igd.md for where to get one"
    if not os.path.isabs(path):  # when the guest reboots, xl's daemon is in "/"
        raise ConfigError("xlplug_rom: not an absolute path", path=path, hint='write it from "/" on', code="XLP214")
    try:
        with open(path, "rb") as file:
            data = file.read(_SHADOW_STOP - _SHADOW + 1)
    except OSError as error:
        raise ConfigError(f"xlplug_rom: {error.strerror}", path=path, hint=hint, code="XLP214") from error
    fault = _fault(data, device)
    if fault:
        raise ConfigError(f"not a VBIOS for {device.bdf}: {fault}", path=path, hint=hint, code="XLP214")
    return data


def _shadow(path: str, device: PciDevice) -> bytes:
    """The VBIOS that the firmware left in host memory, read through sysfs."""
    data = b""
    try:
        data = _read_enabled(path)
        fault = _fault(data, device)
    except OSError as error:  # the kernel finds no ROM there, or the display is not the boot VGA and has no "rom"
        fault = f"{path}: {error.strerror}"
    if fault:
        raise HostError(f"{device.bdf}: no VBIOS for it in host memory ({fault})", hint=_FILE_HINT, code="XLP615")
    return data


def _read_enabled(path: str) -> bytes:
    """A whole sysfs ``rom`` file, which cannot be read until "1" is written to it; disabled again if it was before.

    Written as echo does: Linux 5.10 enables it for anything but exactly "0" and a newline.
    Source: Linux, drivers/pci/pci-sysfs.c, pci_write_rom; Documentation/PCI/sysfs-pci.rst.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            return _read_all(fd)
        except OSError:
            os.pwrite(fd, b"1\n", 0)
        try:
            return _read_all(fd)
        finally:
            os.pwrite(fd, b"0\n", 0)
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    data = b""
    while part := os.pread(fd, 1 << 16, len(data)):
        data += part
    return data


def _fault(data: bytes, device: PciDevice) -> str:
    """Why this is not a VBIOS for the display; "" if it is.

    The device id may differ: one image serves several displays, and QEMU corrects the id.
    """
    room = _SHADOW_STOP - _SHADOW
    if len(data) > room:
        return f"larger than {room >> 10} KiB"
    try:
        vbios = parse_vbios(data, _SHADOW)
    except HostError as error:
        return error.message.rpartition(": ")[2]
    if not 0 < vbios.size <= len(data):
        return f"its header claims {vbios.size} bytes of {len(data)}"
    if vbios.vendor != device.vendor:
        return f"it is for vendor {vbios.vendor:04x}, not {device.vendor:04x}"
    return ""


def enter(view: View, folder: str = "/sys/bus/pci/devices") -> None:
    """Give this process, and the program that it becomes, this view of the display.

    Raises:
        HostError: the kernel refuses; this process may be left in a namespace of its own.
    """
    path = os.path.realpath(f"{folder}/{DISPLAY}")
    try:
        _system_call(_SYS_UNSHARE, _CLONE_NEWNS)
        _mount("none", "/", None, _MS_REC | _MS_SLAVE)
        real = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _mount("xlplug", path, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "mode=755,size=64k")
            _fill(path, f"/proc/self/fd/{real}", view)
        finally:
            os.close(real)
    except OSError as error:
        raise HostError(
            f"{DISPLAY}: cannot change what QEMU sees of it: {error.strerror}",
            hint="set xlplug_rom=0 and xlplug_hide_rom_line=0 (see docs/igd.md)",
            code="XLP614",
        ) from error


def _fill(path: str, real: str, view: View) -> None:
    """Put everything that the real folder has into ours, with our own ``rom`` and ``resource``."""
    for entry in os.scandir(real):
        mine = f"{path}/{entry.name}"
        if entry.name == "rom" and view.vbios is not None:
            continue
        if entry.name == "resource" and view.hides_line:
            with open(f"{real}/resource", "rb") as file, open(mine, "wb") as copy:
                lines = file.readlines()
                lines[ROM_INDEX] = _NO_LINE
                copy.writelines(lines)
        elif entry.is_symlink():
            os.symlink(os.readlink(f"{real}/{entry.name}"), mine)
        else:
            if entry.is_dir():
                os.mkdir(mine)
            else:
                os.close(os.open(mine, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            _mount(f"{real}/{entry.name}", mine, None, _MS_BIND)
    if view.vbios is not None:
        os.symlink(f"/proc/self/fd/{_sealed(view.vbios)}", f"{path}/rom")


def _sealed(data: bytes) -> int:
    """A descriptor that survives exec, for a read-only copy in memory.

    QEMU opens ``rom`` for writing and first writes its byte 01.  If that succeeded, the guest's VBIOS would begin with it.
    The size becomes a BAR's, so it must be a power of two.
    """
    made = os.memfd_create("xlplug-vbios", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        size = 1 << (len(data) - 1).bit_length()
        os.write(made, data.ljust(size, b"\xff"))
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
        return fcntl.fcntl(made, fcntl.F_DUPFD, _FIRST_FD)
    finally:
        os.close(made)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    from xlplug.xen.lib import ffi

    src, dst, fs, data = (
        ffi.NULL if word is None else ffi.new("char[]", os.fsencode(word)) for word in (source, target, kind, options)
    )
    _system_call(_SYS_MOUNT, src, dst, fs, flags, data)


def _system_call(number: int, *arguments: object) -> None:
    from xlplug.xen.lib import ffi, libc

    typed = [ffi.cast("unsigned long", value) if isinstance(value, int) else value for value in arguments]
    if libc().syscall(number, *typed) < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
