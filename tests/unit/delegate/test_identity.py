# SPDX-License-Identifier: LGPL-2.1-only
"""Numbers that are used again: whose process a number is, and whose device an address is, when a delegate has died."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from xlplug.commands import dm, verify
from xlplug.delegate import lifetime
from xlplug.delegate.host_command import HostCommand
from xlplug.delegate.lifetime import sole
from xlplug.delegate.record import DelegateProcess, Record, RecordedDevice
from xlplug.delegate.state import State, path_of
from xlplug.dom0 import pci
from xlplug.model.addr import Domid
from xlplug.model.bar import IO, MEMORY32, Bar
from xlplug.model.bdf import Bdf
from xlplug.model.problem import Problem

HOST = Bdf(0, 3, 0, 0)
BARS = (Bar(0, MEMORY32, 0xFE000000, 0xFE001000), Bar(1, IO, 0xC000, 0xC040))
RECORDED = RecordedDevice(HOST, BARS, Bdf(0, 0, 0x1D, 0))
TAKEN = Problem("it is taken", "wait", "XLP711")


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pci, "SYS_PCI", str(tmp_path))
    folder = tmp_path / str(HOST)
    folder.mkdir()
    for name, text in (("vendor", "0x1af4"), ("device", "0x1110"), ("class", "0x050000")):
        (folder / name).write_text(f"{text}\n")
    (folder / "resource").write_text("0xfe000000 0xfe000fff 0x40200\n0xc000 0xc03f 0x40101\n")
    (folder / "config").write_bytes(bytes(4) + b"\x07\x04" + bytes(250))
    (folder / "driver").symlink_to("../pciback")
    return folder


def test_what_is_as_it_was_delegated(function: Path) -> None:
    assert dm._not_ours((RECORDED,), {}) == set()


@pytest.mark.parametrize("change", ["driver", "none", "owner", "moved", "gone"])
def test_what_is_not_is_left_alone(function: Path, change: str) -> None:
    if change in ("driver", "none"):
        (function / "driver").unlink()
    if change == "driver":
        (function / "driver").symlink_to("../e1000e")
    if change == "moved":
        (function / "resource").write_text("0xfd000000 0xfd000fff 0x40200\n0xc000 0xc03f 0x40101\n")
    if change == "gone":
        function.rename(function.with_name("0000:04:00.0"))
    absent = dm._not_ours((RECORDED,), {HOST: Domid(9)} if change == "owner" else {})
    assert absent == {HOST}
    with ExitStack() as stack:
        placement = dm.Placement(HOST, Bdf(0, 0, 0x1D, 0), bytes(64), BARS)
        dm._decode((placement,), stack, absent)
        assert dm._lock((placement,), stack, absent) == []
    if change != "gone":
        assert (function / "config").read_bytes()[4:6] == b"\x07\x04"


def test_the_command_register_is_given_back_to_pciback_alone(function: Path) -> None:
    command = HostCommand(pci.SYS_PCI, HOST)
    assert (function / "config").read_bytes()[4:6] == b"\x03\x04"
    (function / "driver").unlink()
    (function / "driver").symlink_to("../e1000e")
    (function / "config").write_bytes(bytes(4) + b"\x06\x05" + bytes(250))  # its new driver's
    command.restore()
    assert (function / "config").read_bytes()[4:6] == b"\x06\x05"


def test_a_process_serves_only_if_it_is_the_delegate_s(tmp_path: Path) -> None:
    """This process lives, and has the number of the delegate's that has died."""
    folder = str(tmp_path)
    path = path_of(7, folder)
    state, fd = State.create(path, 1)
    os.close(fd)
    state.pid = os.getpid()
    found = Record(Domid(7), "u", Domid(0), (), (RECORDED,), DelegateProcess(1, 1, 1, path))
    assert verify._kept(found)[1] == 0
    with sole("dm-7", TAKEN, 0, folder):
        assert verify._kept(found)[1] == os.getpid()
    with sole("dm-8", TAKEN, 0, folder):
        assert verify._kept(found)[1] == 0


@pytest.mark.parametrize("pid", [0, os.getpid()])
def test_nobody_is_advised_to_stop_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """``kill -TERM 0`` would be the shell's own process group."""
    monkeypatch.setattr(dm, "path_of", lambda domid: path_of(domid, str(tmp_path)))
    monkeypatch.setattr(dm, "lock_path", lambda name: lifetime.lock_path(name, str(tmp_path)))
    state, fd = State.create(path_of(7, str(tmp_path)), 1)
    os.close(fd)
    state.pid = pid
    assert dm._running(7) == "stop it and start one for all of the guest's devices"
    with sole("dm-7", TAKEN, 0, str(tmp_path)):
        assert (f"kill -TERM {os.getpid()})" in dm._running(7)) == bool(pid)
