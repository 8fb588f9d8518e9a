# SPDX-License-Identifier: LGPL-2.1-only
"""Which device model, and what its command line tells."""

import os
from pathlib import Path

import pytest

from xlplug.hook import device_model
from xlplug.hook.device_model import default_path, domid_of, executable, is_ours, real
from xlplug.model.errors import HostError, XenUnavailableError

HOOKS = Path(__file__).parents[3] / "hooks"
PROBE = "-S -no-user-config -nodefaults -nographic -machine none,accel=xen -chardev stdio,id=c -mon c".split()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-xen-domid", "7", "-no-shutdown"], 7),
        (["-xen-domid", "7", "-name", "-xen-domid", "9"], 7),
        (PROBE, None),
        (["-help"], None),
        ([], None),
        (["-xen-domid"], None),
        (["-xen-domid", "x"], None),
        (["-xen-domid", "-1"], None),
        (["-xen-domid", "²"], None),
        (["-xen-domid-restrict", "7"], None),
        (["-xen-domid", "7" * 5000], None),  # more digits than int() takes
    ],
)
def test_domid_of(arguments: list[str], expected: int | None) -> None:
    assert domid_of(arguments) == expected


def test_our_programs_are_known_by_their_second_line(tmp_path: Path) -> None:
    assert is_ours(str(HOOKS / "xl"))
    assert is_ours(str(HOOKS / "device-model"))
    assert not is_ours("/bin/sh")
    assert not is_ours(str(tmp_path))
    assert not is_ours(str(tmp_path / "none"))
    os.mkfifo(tmp_path / "pipe")
    assert not is_ours(str(tmp_path / "pipe")), "and it is not waited for"
    for text, expected in (
        ("#!/bin/sh\n# xlplug: x\n", True),
        (f"#!/{'p' * 250}\n# xlplug: x\n", True),  # as long as the kernel takes
        ("#!/bin/sh\n\n# xlplug: x\n", False),
        ("# xlplug: x\n", False),
        ("", False),
    ):
        (tmp_path / "program").write_text(text)
        assert is_ours(str(tmp_path / "program")) == expected, text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x\0/usr/lib/xen/bin/qemu-system-i386\0y", "/usr/lib/xen/bin/qemu-system-i386"),
        (b"x\0/usr/libexec/xen-qemu-system-i386\0/bin/qemu-system-i386\0", "/usr/libexec/xen-qemu-system-i386"),
        (b"see qemu-system-i386\0\0/usr/bin/qemu-system-x86_64\0", "/usr/bin/qemu-system-x86_64"),
        (b"/a/qemu-system-i386-log\0", None),
        (b"qemu-system-i386", None),
        (b"", None),
    ],
)
def test_default_path(tmp_path: Path, content: bytes, expected: str | None) -> None:
    (tmp_path / "libxenlight.so.4.17").write_bytes(content)
    if expected is None:
        with pytest.raises(HostError, match=r"libxenlight.so.4.17 does not name .*; set device_model_override"):
            default_path((4, 17), (str(tmp_path),))
    else:
        assert default_path((4, 17), ("/nowhere", str(tmp_path))) == expected


def test_no_library_no_default(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"libxenlight.so.4.16"):
        default_path((4, 16), (str(tmp_path),))


def test_the_real_one_is_an_override_or_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert real(str(program)) == str(program)
    with pytest.raises(XenUnavailableError):
        real("")
    (tmp_path / "libxenlight.so.4.17").write_bytes(b"\0/default/qemu-system-i386\0")
    monkeypatch.setattr("xlplug.xen.lib.running_version", lambda: (4, 17, "4.17.7"))
    monkeypatch.setattr(device_model.default_path, "__defaults__", ((str(tmp_path),),))
    for override in ("", str(HOOKS / "device-model")):  # chained behind itself it would run for ever
        with pytest.raises(HostError, match=r"the device model /default/qemu-system-i386 is missing"):
            real(override)


@pytest.mark.parametrize("path", ["none", "folder", "plain", "dangling", ""])
def test_what_cannot_be_executed(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("")
    (tmp_path / "dangling").symlink_to("none")
    with pytest.raises(HostError, match=r"is missing or not executable; install it"):
        executable(str(tmp_path / path) if path else "")
    assert os.access(executable("/bin/sh"), os.X_OK)


def test_a_name_without_a_folder_is_looked_up_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Xen 4.21 and later, configured with --with-system-qemu."""
    (tmp_path / "libxenlight.so.4.23").write_bytes(b"qemu-system-i386 is\0qemu-system-i386\0")
    monkeypatch.setenv("PATH", f"/none:{tmp_path}")
    with pytest.raises(HostError, match="qemu-system-i386 is not in PATH; install it"):
        default_path((4, 23), (str(tmp_path),))
    (tmp_path / "qemu-system-i386").mkdir()
    with pytest.raises(HostError, match="not in PATH"):
        default_path((4, 23), (str(tmp_path),))
    (tmp_path / "qemu-system-i386").rmdir()
    (tmp_path / "qemu-system-i386").write_text("")
    (tmp_path / "qemu-system-i386").chmod(0o755)
    assert default_path((4, 23), (str(tmp_path),)) == f"{tmp_path}/qemu-system-i386"
    (tmp_path / "libxenlight.so.4.23").write_bytes(b"qemu-system-i386\0/usr/bin/qemu-system-i386\0")
    assert default_path((4, 23), (str(tmp_path),)) == "/usr/bin/qemu-system-i386", "a path is preferred"
