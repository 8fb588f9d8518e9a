# SPDX-License-Identifier: LGPL-2.1-only
"""Other releases' libxenctrl on this Xen: found out before any change, and told in one line."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.contract.versions import INTERFACES
from tests.lab.dom0.conftest import IGD, Guests, dump, journal, sh, xlplug
from xlplug.xen.lib import running_version

OWN = Path("/usr/lib/x86_64-linux-gnu")
*RUNNING, TEXT = running_version()
VERSION = "{}.{}".format(*RUNNING)
BROUGHT = sorted(folder.name.removeprefix("lib-") for folder in Path("/job").glob("lib-*"))
OTHERS = [version for version in BROUGHT if version != VERSION]


def numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


def python(version: str, libraries: Path) -> list[str]:
    """Our Python, so that it finds ``libraries`` first; for a newer release's, on that release's C library."""
    if numbers(version) <= tuple(RUNNING):
        return ["env", f"LD_LIBRARY_PATH={libraries}", sys.executable]
    c = f"/job/lib-{version}/c"
    beside = Path(f"{sys.executable}.real")  # where Python is itself another release's: tests/lab/tree.py
    path = f"{libraries}:{c}:/opt/python/lib/x86_64-linux-gnu:/opt/python/usr/lib/x86_64-linux-gnu"
    binary = str(beside if beside.exists() else Path(sys.executable).resolve())
    return [f"{c}/ld-linux-x86-64.so.2", "--argv0", sys.executable, "--library-path", path, binary]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A guest that holds nothing, and a config by which it wants the display."""
    them = Guests(tmp_path_factory.mktemp("mismatch"))
    domid, path = them.make()
    path.write_text(path.read_text() + IGD)
    yield domid, path
    them.destroy(domid)


def refused(guest: tuple[int, Path], argv: list[str], state: AbstractContextManager[None] | None = None) -> str:
    """What a grant says that must not happen, ``state`` being that of the machine meanwhile."""
    domid, path = guest
    before = dump()
    with state or nullcontext():
        done = sh(*argv, "-m", "xlplug", "grant", str(domid), "--config", str(path))
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert dump() == before
    assert journal(domid) == ""
    return done.stderr


@pytest.mark.smoke
def test_every_release_s_libraries_were_brought() -> None:
    assert len(BROUGHT) == 3
    assert VERSION in BROUGHT


@pytest.mark.smoke
@pytest.mark.parametrize("version", BROUGHT)
def test_what_xen_says_to_each(version: str) -> None:
    """A domctl tells; a working getinfolist, which is a sysctl, proves nothing."""
    code = (
        "from xlplug.xen.lib import ffi\n"
        f"lib = ffi.dlopen('libxenctrl.so.{version}')\n"
        "xch = lib.xc_interface_open(ffi.NULL, ffi.NULL, 0)\n"
        "from errno import errorcode\n"
        "print(lib.xc_domain_ioport_permission(xch, 0x7ff0, 0x3b0, 1, 1), errorcode[ffi.errno])\n"
        "info = ffi.new('char[]', 1024)\n"
        "count = lib.xc_domain_getinfolist(xch, 0, 1, ffi.cast('xc_domaininfo_t *', info))\n"
        "print(count, errorcode[ffi.errno] if count < 0 else 'ok')\n"
        "print(open('/proc/self/maps').read().count('/job/') > 0)\n"
    )
    done = sh(*python(version, Path(f"/job/lib-{version}/xen")), "-c", code)
    assert done.stderr == "", "and libxenctrl itself says nothing"
    fits = [
        mine == theirs for mine, theirs in zip(INTERFACES[numbers(version)], INTERFACES[tuple(RUNNING)], strict=True)
    ]
    assert done.stdout.splitlines() == [
        "-1 ESRCH" if fits[0] else "-1 EACCES",
        "1 ok" if fits[1] else "-1 EACCES",
        "True",
    ]


@pytest.mark.smoke
@pytest.mark.parametrize("version", OTHERS)
def test_another_release_s_library_under_the_right_name(guest: tuple[int, Path], tmp_path: Path, version: str) -> None:
    shutil.copytree(f"/job/lib-{version}/xen", tmp_path / "lib")
    wrong = tmp_path / "lib" / f"libxenctrl.so.{VERSION}"
    (tmp_path / "lib" / f"libxenctrl.so.{version}").rename(wrong)
    assert refused(guest, python(version, tmp_path / "lib")) == (
        f"xlplug: {wrong} is Xen {version}'s library, and the running Xen {TEXT} refuses it; "
        f"install the real libxenctrl.so.{VERSION} (Debian: libxenmisc{VERSION}), or boot Xen {version} [XLP105]\n"
    )


@contextmanager
def instead(version: str = "") -> Iterator[None]:
    """The running Xen's library is gone, as after an upgrade that waits for its reboot, and another one's is there."""
    own = OWN / f"libxenctrl.so.{VERSION}"
    aside, other = own.with_name("aside"), OWN / f"libxenctrl.so.{version}"
    own.rename(aside)
    try:
        if version:
            shutil.copy(f"/job/lib-{version}/xen/{other.name}", other)
        yield
    finally:
        aside.rename(own)
        if version:
            other.unlink(missing_ok=True)


@pytest.mark.smoke
def test_only_another_release_s_library_is_installed(guest: tuple[int, Path]) -> None:
    version = OTHERS[-1]
    assert refused(guest, [sys.executable], instead(version)) == (
        f"xlplug: the running Xen's libxenctrl.so.{VERSION} is not installed, only Xen {version}'s is; "
        f"install it (Debian: libxenmisc{VERSION}), or boot Xen {version} [XLP104]\n"
    )


def test_no_library_at_all(guest: tuple[int, Path]) -> None:
    assert refused(guest, [sys.executable], instead()) == (
        f"xlplug: the running Xen's libxenctrl.so.{VERSION} is not installed; install it (Debian: libxenmisc{VERSION}) [XLP104]\n"
    )


def test_the_machine_is_as_before() -> None:
    assert xlplug("show").returncode == 0
