# SPDX-License-Identifier: LGPL-2.1-only
"""Finding Xen and its libraries: every way in which they are not there says what to do."""

import errno
import os
import re
from pathlib import Path

import pytest

from xlplug.model.errors import XenError, XenUnavailableError
from xlplug.xen import lib
from xlplug.xen.lib import check, ffi


def hypervisor(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(folder)


def test_the_running_version(tmp_path: Path) -> None:
    root = hypervisor(tmp_path, type="xen", version__major="4", version__minor="20", version__extra=".4-pre")
    assert lib.running_version(root) == (4, 20, "4.20.4-pre")


def test_no_extra_version_is_fine(tmp_path: Path) -> None:
    root = hypervisor(tmp_path, type="xen", version__major="4", version__minor="9")
    assert lib.running_version(root) == (4, 9, "4.9")


@pytest.mark.parametrize("files", [{}, {"type": "kvm"}, {"type": ""}])
def test_not_on_xen(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(XenUnavailableError, match=r"^this machine does not run on Xen; boot the Xen entry"):
        lib.running_version(hypervisor(tmp_path, **files))


@pytest.mark.parametrize("minor", ["", "x", "-1"])
def test_a_version_that_is_none(tmp_path: Path, minor: str) -> None:
    with pytest.raises(XenUnavailableError, match="does not hold Xen's version"):
        lib.running_version(hypervisor(tmp_path, type="xen", version__major="4", version__minor=minor))


@pytest.fixture
def on_xen(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(lib, "running_version", lambda: (4, 17, "4.17.7"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return monkeypatch


def test_who_may_call(tmp_path: Path, on_xen: pytest.MonkeyPatch) -> None:
    capabilities = tmp_path / "capabilities"
    with pytest.raises(XenUnavailableError, match="cannot be read; mount it"):
        lib.require_dom0(str(capabilities))
    capabilities.write_text("")
    with pytest.raises(XenUnavailableError, match=r"^this is a guest domain; run xlplug in dom0 \[XLP103\]$"):
        lib.require_dom0(str(capabilities))
    capabilities.write_text("control_d\n")
    lib.require_dom0(str(capabilities))
    on_xen.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(XenUnavailableError, match="root only"):
        lib.require_dom0(str(capabilities))


def test_an_absent_library_names_its_package() -> None:
    with pytest.raises(XenUnavailableError) as caught:
        lib.load_ctrl(4, 99)
    assert re.fullmatch(
        r"the running Xen's libxenctrl\.so\.4\.99 is not installed(, only Xen [0-9. and]+'s is)?; "
        r"install it \(Debian: libxenmisc4\.99\)(, or boot Xen [0-9. or]+)? \[XLP104\]",
        str(caught.value),
    )


class Installed:
    """Stands in for ffi: only these sonames can be opened."""

    error = ffi.error

    def __init__(self, *sonames: str) -> None:
        self.sonames = sonames

    def dlopen(self, soname: str) -> str:
        if soname in self.sonames:
            return soname
        raise OSError(f"cannot load library '{soname}': {soname}: cannot open shared object file: No such file")


@pytest.mark.parametrize(
    ("installed", "opened"),
    [
        (("libxenstore.so.4",), "libxenstore.so.4"),
        (("libxenstore.so.3.0",), "libxenstore.so.3.0"),
        (("libxenstore.so.3.0", "libxenstore.so.4"), "libxenstore.so.4"),
    ],
)
def test_the_newest_libxenstore_that_is_there(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], opened: str
) -> None:
    monkeypatch.setattr(lib, "ffi", Installed(*installed))
    assert lib.load_stable("xenstore") == opened


def test_no_libxenstore_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lib, "ffi", Installed())
    with pytest.raises(XenUnavailableError) as caught:
        lib.load_stable("xenstore")
    assert str(caught.value) == (
        "libxenstore.so.4 is not installed; install it (Debian: libxenstore4, with an old Xen libxenstore3.0) [XLP104]"
    )


def test_a_declared_function_that_a_library_has_not() -> None:
    """cffi's own error, which is no AttributeError: seen with Xen 4.14's libxendevicemodel."""
    libc = ffi.dlopen(None)
    assert lib.has(libc, "free")
    assert not lib.has(libc, "xendevicemodel_nr_vcpus")
    assert not lib.has(libc, "undeclared")


def test_a_library_that_lacks_another_is_not_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def dlopen(self, soname: str) -> None:
            raise OSError(
                f"cannot load library '{soname}': libxencall.so.1: cannot open shared object file: No such file"
            )

    monkeypatch.setattr(lib, "ffi", Broken())
    with pytest.raises(XenUnavailableError, match=r"cannot be loaded: .*libxencall.*; reinstall libxenmisc4\.17"):
        lib.load_ctrl(4, 17)


def test_check_passes_results_through() -> None:
    ffi.errno = errno.EPERM
    assert check("call", 0) == 0
    assert check("call", 12) == 12


@pytest.mark.parametrize(
    ("result", "left", "told"), [(-1, errno.EBUSY, errno.EBUSY), (-errno.EINVAL, errno.EPERM, errno.EINVAL)]
)
def test_check_tells_the_right_errno(result: int, left: int, told: int) -> None:
    ffi.errno = left
    with pytest.raises(XenError) as caught:
        check("xc_call", result, lambda: "domid=7", hint="do this")
    assert caught.value.errno == told
    assert str(caught.value).startswith(f"xc_call domid=7: {errno.errorcode[told]} (")
    assert str(caught.value).endswith("; do this [XLP111]")


def test_what_an_ioreq_server_s_errors_advise() -> None:
    from xlplug.xen.devicemodel import _hint

    assert "room for 8 ioreq servers" in _hint("create_ioreq_server", errno.ENOSPC)
    assert "room for 256 ranges" in _hint("map_io_range_to_ioreq_server", errno.ENOMEM)
    assert "this function already" in _hint("map_pcidev_to_ioreq_server", errno.EEXIST)
    assert "not all of it is mapped" in _hint("unmap_io_range_from_ioreq_server", errno.ENOENT)
    assert "no such ioreq server, or is being destroyed" in _hint("destroy_ioreq_server", errno.ENOENT)
    assert "belongs to another domain" in _hint("set_ioreq_server_state", errno.EPERM)
    assert _hint("set_isa_irq_level", errno.EPERM) == ""
