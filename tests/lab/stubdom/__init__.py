# SPDX-License-Identifier: LGPL-2.1-only
"""Builds the lab's Linux stubdomain and its test guest: a PV kernel, a ramdisk with QEMU, and two guests, assembled.

And our preload library for the release's QEMU, which the stubdomain's ramdisk and dom0 both have; and the one by which hypercalls
of a test fail (fault.c).

Everything comes from a dom0 tree: the same kernel, QEMU and libraries of the same packages.  Cached beside the tree.
"""

import fcntl
import hashlib
import lzma
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from tests.lab.igd import firmware
from tests.lab.tree import BUSYBOX, BuildError, Tree, copy_modules

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PRELOAD = "libxlplug-preload.so"
GUESTS = ("vgaguest", "puppet", "flood")
FAULT = "libfault.so"
_MODULES = (
    "xen-privcmd", "xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-pcifront", "xen-blkfront",
)  # fmt: skip
#: In the tree: what runs, and the firmware that QEMU loads into guests' ROMs.
_PROGRAMS = (
    "/usr/lib/xen-{xen}/bin/vchan-socket-proxy", "/usr/bin/xenstore-read", "/usr/bin/xenstore-list",
    "/usr/bin/xenstore-write",
)  # fmt: skip
_DEVICE_MODELS = ("/usr/libexec/xen-qemu-system-i386", "/usr/bin/qemu-system-i386")  # the latter on bullseye
_DATA = ("usr/share/seabios", "usr/lib/ipxe/qemu", "usr/share/qemu/*.rom")  # where exactly differs by release
#: Where a PV kernel's image has its payload.  Source: Linux, Documentation/arch/x86/boot.rst.
_SETUP_SECTORS, _PAYLOAD = 0x1F1, 0x248


def get(tree: Tree) -> Path:
    """The folder with ``kernel``, ``ramdisk``, the guests and the preload library, from the cache or built now (some seconds).

    Raises:
        BuildError: with the end of what the failing command said.
    """
    files = [
        *sorted(file for file in HERE.iterdir() if file.is_file()),
        Path(firmware.__file__),
        ROOT / "hooks" / "preload" / "preload.c",
    ]
    recipe = b"".join(file.read_bytes() for file in files)
    home = tree.root.parent.with_name(f"stubdom-{tree.root.parent.name}-{hashlib.sha256(recipe).hexdigest()[:12]}")
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            print(f"lab: building {home}", flush=True)
            for stale in home.parent.glob(f"{home.name}-*.part"):
                shutil.rmtree(stale, ignore_errors=True)
            part = Path(tempfile.mkdtemp(prefix=f"{home.name}-", suffix=".part", dir=home.parent))
            part.chmod(0o755)
            _library(tree, part)
            _kernel(tree, part)
            _ramdisk(tree, part)
            _guest(part)
            _linux(tree, part)
            part.rename(home)
    return home


def _run(*argv: str | Path, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    done = subprocess.run([str(a) for a in argv], cwd=cwd, input=data, capture_output=True)
    if done.returncode:
        raise BuildError(
            f"{argv[0]} failed ({done.returncode}): {done.stderr[-1500:].decode(errors='replace').strip()}"
        )
    return done.stdout


def _kernel(tree: Tree, part: Path) -> None:
    """dom0's own kernel, unpacked and stripped here, because unpacking it in the emulated machine takes seconds."""
    image = tree.kernel.read_bytes()
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = (image[_SETUP_SECTORS] + 1) * 512 + offset
    packed = image[start : start + length - 4]  # the last four bytes are the unpacked size
    if packed.startswith(b"\xfd7zXZ"):
        unpacked = lzma.decompress(packed)
    elif packed.startswith(b"\x28\xb5\x2f\xfd"):
        unpacked = _run("zstd", "-dc", data=packed)
    else:
        raise BuildError(f"{tree.kernel}: packed in a way that is neither xz nor zstd: {packed[:4].hex()}")
    (part / "kernel").write_bytes(unpacked)
    _run("strip", part / "kernel")


def _library(tree: Tree, part: Path) -> None:
    """Linked to the tree's own C library, because this machine's may be newer and bind it to what is not there."""
    folder = tree.root / "lib" / "x86_64-linux-gnu"
    libraries = " ".join(str(folder / name) for name in ("libc.so.6", "libdl.so.2", "libpthread.so.0"))
    _run(
        "make", "-s", "-C", ROOT, "preload", f"PRELOAD={part / PRELOAD}", "LDFLAGS=-nostdlib -Wl,--as-needed",
        f"LDLIBS={libraries}",
    )  # fmt: skip
    flags = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-nostdlib", "-Wl,--as-needed")
    _run("cc", *flags, "-o", part / FAULT, HERE / "fault.c", folder / "libc.so.6")


def _ramdisk(tree: Tree, part: Path) -> None:
    """Not packed: the emulated machine reads it faster than it would unpack it."""
    stage = part / "stage"
    for name in ("bin", "modules"):
        (stage / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, stage / "bin" / "busybox")
    (version,) = (p.name for p in (tree.root / "lib" / "modules").iterdir())
    copy_modules(tree.root, version, _MODULES, stage / "modules")
    device_model = next((path for path in _DEVICE_MODELS if (tree.root / path.lstrip("/")).exists()), _DEVICE_MODELS[0])
    programs = [device_model, *(program.format(xen=tree.release.xen) for program in _PROGRAMS)]
    needed = set()
    for line in _run("chroot", tree.root, "ldd", *programs).decode().splitlines():
        needed.update(word for word in line.split() if word.startswith("/") and not word.endswith(":"))
    data = [f"/{found.relative_to(tree.root)}" for pattern in _DATA for found in sorted(tree.root.glob(pattern))]
    wanted = [*programs, *sorted(needed), *data]
    _run("tar", "-xf", "-", cwd=stage, data=_run("chroot", tree.root, "tar", "-chPf", "-", *wanted))
    for name, program in zip(("device-model", "vchan-socket-proxy"), programs, strict=False):
        (stage / "bin" / name).symlink_to(program)
    shutil.copy(part / PRELOAD, stage / "lib" / PRELOAD)
    (stage / "lib" / "vbios").write_bytes(firmware.vbios())
    shutil.copy(HERE / "init.sh", stage / "init")
    (stage / "init").chmod(0o755)
    (part / "ramdisk").write_bytes(_run("sh", "-c", "find . | cpio -o -H newc --quiet", cwd=stage))
    shutil.rmtree(stage)


def _linux(tree: Tree, part: Path) -> None:
    """Debian's kernel for an HVM guest, and a ramdisk in which linuxguest.sh is everything."""
    shutil.copy(tree.kernel, part / "vmlinuz")
    stage = part / "stage"
    (stage / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, stage / "bin" / "busybox")
    shutil.copy(HERE / "linuxguest.sh", stage / "init")
    (stage / "init").chmod(0o755)
    (part / "linuxguest").write_bytes(_run("sh", "-c", "find . | cpio -o -H newc --quiet", cwd=stage))
    shutil.rmtree(stage)


def _guest(part: Path) -> None:
    """ELF files that Xen's domain builder loads where it would load hvmloader, or a PVH guest's kernel."""
    for name in GUESTS:
        _run("as", "--32", "-o", part / f"{name}.o", HERE / f"{name}.S")
        _run(
            "ld",
            "-m",
            "elf_i386",
            "-Ttext=0x100000",
            "--section-start=.note.Xen=0x110000",
            "-N",
            "-o",
            part / name,
            part / f"{name}.o",
        )
        (part / f"{name}.o").unlink()
