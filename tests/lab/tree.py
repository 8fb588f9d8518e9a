# SPDX-License-Identifier: LGPL-2.1-only
"""Builds what the lab boots: a dom0 tree of Debian packages, the hypervisor, a kernel and an initramfs.

Everything is cached by the hash of its recipe.  A build happens in a scratch folder and is renamed when whole, so an
interrupted one leaves nothing that a later run would take for complete.
"""

import fcntl
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.lab.mirrors import NoMirrorError, mirrors

HERE = Path(__file__).parent


class Release(NamedTuple):
    """A Debian release: its Xen version as xen-utils names it, and the packages that differ."""

    suite: str
    xen: str
    device_model: str
    kernel: str
    #: The release whose Python runs xlplug where the own one is too old for it (3.11 is the minimum).
    python_of: str = ""


RELEASES = {
    r.suite: r
    for r in (
        Release("bullseye", "4.14", "qemu-system-x86", "linux-image-amd64", python_of="bookworm"),
        Release("bookworm", "4.17", "qemu-system-xen", "linux-image-amd64"),
        Release("trixie", "4.20", "qemu-system-xen", "linux-image-amd64"),
    )
}

_PYTHON = ("python3", "python3-cffi", "python3-pyudev", "python3-click", "python3-pytest", "python3-pyelftools")
_PACKAGES = ("udev", "kmod", "pciutils", "strace", "procps", "iproute2", "hostname")
#: Runs a newer release's Python with that release's C library; whatever it does not bring, the Xen libraries first of
#: all, comes from the tree's own.  Children get nothing of this: it sets no variable, and it is sys.executable.
_INTERPRETER = """\
#!/bin/sh
lib=/opt/python/lib/x86_64-linux-gnu:/opt/python/usr/lib/x86_64-linux-gnu
exec /opt/python/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --argv0 "$0" \\
 --library-path "${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$lib" "$0.real" "$@"
"""
BUSYBOX = Path("/bin/busybox")
_MODULES = (
    "virtio_pci", "9p", "9pnet_virtio", "overlay", "xen-privcmd", "xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc",
)  # fmt: skip


class BuildError(Exception):
    """The tree could not be built: no network, no space, a package that is gone."""


class Tree(NamedTuple):
    """A built tree: the dom0 root, and the three files that QEMU loads."""

    release: Release
    root: Path
    xen: Path
    kernel: Path
    initrd: Path


def cache_root() -> Path:
    """Where trees are kept between runs."""
    given = os.environ.get("XLPLUG_LAB_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "xlplug-lab"


def libraries() -> dict[str, Path]:
    """Every release's Xen libraries by Xen version, from the cache or fetched now (some seconds each).

    In each folder: ``xen``, all of Xen's libraries, and ``c``, the loader and the C library that they want.

    Raises:
        BuildError: with the end of what the failing command said.
    """
    return {
        release.xen: cached(f"libraries-{release.suite}", _RECIPE, partial(_fetch_libraries, release))
        for release in RELEASES.values()
    }


#: The files that say how a tree is built: a change in one of them builds all trees again.
_RECIPE = (HERE / "tree.py", HERE / "init.sh")


def missing_tools() -> str:
    """What keeps the lab from running here, in one sentence; empty when nothing does."""
    if os.geteuid() != 0:
        return "building the dom0 tree needs root"
    needed = ("mmdebstrap", "qemu-system-x86_64", "busybox", "cpio", "setpriv", "as", "ld", "strip", "zstd", "tar")
    absent = [tool for tool in needed if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if b"/ld-linux" in BUSYBOX.read_bytes():
        return f"{BUSYBOX} needs libraries, which an initramfs has not; install busybox-static"
    return ""


def get(suite: str) -> Tree:
    """The tree of a release, from the cache or built now (about a minute).

    Raises:
        BuildError: with the end of what the failing command said.
    """
    release = RELEASES[suite]
    home = cached(suite, _RECIPE, partial(_build, release))
    return Tree(release, home / "root", home / "xen", home / "vmlinuz", home / "initrd.gz")


def cached(name: str, recipe: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """The folder of that name, built as the files ``recipe`` say; ``make`` fills a scratch folder, which takes its place.

    Raises:
        BuildError: ``make`` failed.
    """
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in recipe)).hexdigest()[:12]
    home = cache_root() / f"{name}-{digest}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_suffix(".lock")):
        if not home.exists():
            print(f"lab: building {home}", flush=True)
            # Of this recipe only: its lock is ours, while another checkout may be building another recipe right now.
            mounted = Path("/proc/self/mounts").read_text()
            for stale in home.parent.glob(f"{home.name}-*.part"):
                if f" {stale}/" not in mounted:  # a build killed a moment ago may not have unmounted /proc yet
                    shutil.rmtree(stale, ignore_errors=True)
            part = Path(tempfile.mkdtemp(prefix=f"{home.name}-", suffix=".part", dir=home.parent))
            part.chmod(0o755)
            make(part)
            part.rename(home)
    return home


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*argv: str | Path) -> None:
    """Run a build's command; when we are stopped, or even killed, it is asked to stop too.

    Asked, because mmdebstrap must unmount /proc, /sys and /dev in the tree: subprocess.run would kill it at once, and a
    pipe that nobody reads any more would end its cleaning up.
    """
    asked = ["setpriv", "--pdeathsig", "TERM", *(str(a) for a in argv)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(asked, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        said.seek(0)
        if process.returncode:
            raise BuildError(f"{argv[0]} failed ({process.returncode}): {said.read()[-1500:].strip()}")


def _build(release: Release, part: Path) -> None:
    """A release's dom0 tree, hypervisor, kernel and initramfs."""
    root = part / "root"
    packages = [*_PACKAGES, f"xen-utils-{release.xen}", f"xen-hypervisor-{release.xen}-amd64", release.device_model]
    packages += () if release.python_of else _PYTHON
    hook = (
        'printf "#!/bin/sh\\nexit 101\\n" >"$1/usr/sbin/policy-rc.d"; chmod +x "$1/usr/sbin/policy-rc.d"; '
        'mkdir -p "$1/etc/initramfs-tools"'
    )
    hooks = (f"--essential-hook={hook}", f"--customize-hook={_fetch_kernel_hook(release)}")
    debootstrap(release.suite, root, "minbase", packages, *hooks)
    if release.python_of:
        _add_python(release.python_of, root)
    kernel = part / "kernel"
    kernel.mkdir()
    deb = next((root / "kernel-deb").glob("linux-image-*.deb"))
    _run("dpkg-deb", "-x", deb, kernel)
    shutil.rmtree(root / "kernel-deb")
    image = next((kernel / "boot").glob("vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    shutil.copy(image, part / "vmlinuz")
    modules = kernel / "lib" / "modules"
    if not modules.exists():
        modules = kernel / "usr" / "lib" / "modules"
    shutil.move(modules, root / "lib" / "modules")
    _run("chroot", root, "depmod", version)
    packed = next(p for p in sorted((root / "boot").glob(f"xen-{release.xen}*amd64*")) if p.suffix in (".gz", ""))
    data = packed.read_bytes()
    (part / "xen").write_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    _initrd(root, version, part)
    for name in ("job", "out", "xlplug"):
        (root / name).mkdir(exist_ok=True)
    shutil.rmtree(kernel)


def _fetch_libraries(release: Release, part: Path) -> None:
    """A release's Xen libraries, and what they need of its C library to load where that is older."""
    root = part / "root"
    debootstrap(release.suite, root, "extract", (f"libxenmisc{release.xen}",))
    for folder, patterns in (
        ("xen", ("libxenctrl.so.*", "libxen*.so.?")),
        ("c", ("ld-linux-x86-64.so.2", "lib[cm].so.6")),
    ):
        (part / folder).mkdir()
        for where in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            for file in (f for pattern in patterns for f in (root / where).glob(pattern)):
                shutil.copy(file, part / folder)
    shutil.rmtree(root)


def debootstrap(
    suite: str, root: Path, variant: str, packages: Sequence[str], *options: str, backports: bool = False
) -> None:
    """Packages of one release, without what they merely recommend, and without what only people read.

    Raises:
        BuildError: no mirror, or what mmdebstrap said.
    """
    try:
        sources = mirrors().lines(suite, backports=backports)
    except NoMirrorError as error:
        raise BuildError(str(error)) from error
    if backports:
        options = (*options, f'--aptopt=APT::Default-Release "{suite}-backports"')
    keep_out = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
    _run(
        "mmdebstrap", "--mode=root", f"--variant={variant}", f"--include={','.join(packages)}",
        '--aptopt=APT::Install-Recommends "false"', *(f"--dpkgopt=path-exclude={p}" for p in keep_out), *options,
        suite, root, *sources,
    )  # fmt: skip


def _add_python(suite: str, root: Path) -> None:
    """That release's Python, unpacked in /opt/python of a tree whose own is older; it is python3 in the lab's PATH."""
    home = root / "opt" / "python"
    debootstrap(suite, home, "extract", _PYTHON)
    python = (home / "usr" / "bin" / "python3").resolve(strict=True)
    python.rename(f"{python}.real")
    python.write_text(_INTERPRETER)
    python.chmod(0o755)
    inside = f"/{python.relative_to(root)}"
    (root / "usr/local/bin/python3").write_text(f'#!/bin/sh\nexec {inside} "$@"\n')
    (root / "usr/local/bin/python3").chmod(0o755)
    _run(
        "chroot",
        root,
        inside,
        "-m",
        "compileall",
        "-q",
        "/opt/python/usr/lib/python3",
        f"/opt/python/usr/lib/{python.name}",
    )


def _fetch_kernel_hook(release: Release) -> str:
    """Shell for mmdebstrap: download the release's kernel package with the tree's own apt, without installing it."""
    return (
        'mkdir "$1/kernel-deb" && cd "$1/kernel-deb" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && '
        f"apt-get -qq download $(apt-cache depends {release.kernel} | sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p')"
    )


def _initrd(root: Path, version: str, part: Path) -> None:
    """busybox, the modules that reach the root over 9p, and init.sh."""
    stage = part / "initrd"
    for name in ("bin", "modules", "proc", "sys", "dev", "mnt"):
        (stage / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, stage / "bin" / "busybox")
    copy_modules(root, version, _MODULES, stage / "modules")
    shutil.copy(HERE / "init.sh", stage / "init")
    (stage / "init").chmod(0o755)
    with (part / "initrd.gz").open("wb") as out:
        archive = subprocess.run(
            ["sh", "-c", "find . | cpio -o -H newc --quiet | gzip -1"], cwd=stage, stdout=out, check=False
        )
    if archive.returncode:
        raise BuildError("cpio failed")
    shutil.rmtree(stage)


def copy_modules(root: Path, version: str, names: Sequence[str], folder: Path) -> None:
    """Kernel modules of a tree and all that they need, unpacked into ``folder``; its file ``order`` says how to load them.

    Raises:
        BuildError: the kernel has no such module.
    """
    order: list[str] = []
    for module in names:
        shown = subprocess.run(
            ["chroot", str(root), "modprobe", "-S", version, "--show-depends", module], capture_output=True, text=True
        )
        if shown.returncode:
            raise BuildError(f"modprobe --show-depends {module}: {shown.stderr.strip()}")
        for line in shown.stdout.splitlines():
            kind, _, path = line.partition(" ")
            file = root / path.split()[0].lstrip("/") if kind == "insmod" else None
            if file is None:
                continue
            name = file.name.removesuffix(".xz")
            if name not in order:
                order.append(name)
                data = file.read_bytes()
                (folder / name).write_bytes(lzma.decompress(data) if file.suffix == ".xz" else data)
    (folder / "order").write_text("\n".join(order) + "\n")
