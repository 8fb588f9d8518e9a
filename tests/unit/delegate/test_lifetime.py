# SPDX-License-Identifier: LGPL-2.1-only
"""A delegate's locks, its leave, and its end without xenstore; with real processes and real locks."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlplug.delegate import lifetime
from xlplug.delegate.lifetime import lock_path, sole, take_leave
from xlplug.model.errors import HostError, Refused
from xlplug.model.problem import Problem

TAKEN = Problem("it is taken", "wait", "XLP711")
#: Opens the lock, and ends at SIGUSR1 with a status that shows it, unless it is deaf.
HOLDER = """
import os, signal, sys, time
lock = open(sys.argv[1], "w")
signal.signal(signal.SIGUSR1, signal.SIG_IGN if sys.argv[2] == "deaf" else lambda *_: os._exit(21))
print("open", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holders() -> Iterator[list["subprocess.Popen[str]"]]:
    made: list[subprocess.Popen[str]] = []
    yield made
    for process in made:
        process.kill()
        process.communicate()


def holder(holders: list["subprocess.Popen[str]"], path: str, how: str = "") -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path, how], stdout=subprocess.PIPE, text=True)
    holders.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_a_lock_is_one_s_alone_and_goes_with_it(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    with sole("dm-7", TAKEN, 0, folder):
        began = time.monotonic()
        with pytest.raises(Refused, match="it is taken; wait"), sole("dm-7", TAKEN, 0.2, folder):
            pass
        assert time.monotonic() - began >= 0.2
        with sole("dm-8", TAKEN, 0, folder):
            pass
    with sole("dm-7", TAKEN, 0, folder):
        assert Path(lock_path("dm-7", folder)).stat().st_mode & 0o777 == 0o600
    assert Path(folder).stat().st_mode & 0o777 == 0o700


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "dm-7.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError), sole("dm-7", TAKEN, 0, str(tmp_path)):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_leave_is_taken_by_the_process_that_has_the_lock(tmp_path: Path, holders: list) -> None:
    path = str(tmp_path / "lock")
    process = holder(holders, path)
    take_leave(process.pid, path)
    assert process.wait(10) == 21


def test_one_that_is_deaf_is_killed(tmp_path: Path, holders: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "_LEAVE_SECONDS", 0.1)
    path = str(tmp_path / "lock")
    process = holder(holders, path, "deaf")
    take_leave(process.pid, path)
    assert process.wait(10) == -9


def test_another_process_of_that_number_is_left_alone(tmp_path: Path, holders: list) -> None:
    process = holder(holders, str(tmp_path / "other"))
    take_leave(process.pid, str(tmp_path / "lock"))
    take_leave(0, str(tmp_path / "lock"))
    assert process.poll() is None


def fails() -> None:
    raise OSError


@pytest.mark.parametrize(("call", "done"), [(lambda: None, True), (fails, False), (lambda: time.sleep(600), False)])
def test_what_xenstored_may_take(call, done: bool) -> None:
    began = time.monotonic()
    assert lifetime._within(0.5, call) is done
    assert time.monotonic() - began < 10
