# SPDX-License-Identifier: LGPL-2.1-only
"""The lock: whose it is, who waits for it, and for how long."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xlplug.dom0 import lock
from xlplug.model.errors import HostError

HOLD = """
import sys, time
from xlplug.dom0 import lock
lock._FOLDER = sys.argv[1]
with lock.locked():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "_FOLDER", str(tmp_path / "xlplug"))
    return tmp_path / "xlplug"


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_folder_is_root_s_alone(folder: Path) -> None:
    with lock.locked():
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "lock").stat().st_mode & 0o777 == 0o600
    with lock.locked():
        pass  # again, now that all is there


def test_a_folder_that_others_may_use_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    for mode in (0o1777, 0o770, 0o702):
        folder.chmod(mode)
        with pytest.raises(HostError, match="may be written to by others"), lock.locked():
            pass
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError), lock.locked():
        pass
    assert not (tmp_path / "elsewhere" / "lock").exists()


def test_a_link_in_place_of_the_lock_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(HostError), lock.locked():
        pass
    assert not (tmp_path / "victim").exists()


def test_who_waits_too_long_learns_for_whom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)
    other = holder(folder, 60)
    try:
        with pytest.raises(HostError, match=f"process {other.pid}, .*python") as caught, lock.locked():
            pass
        assert "run this again" in caught.value.hint
    finally:
        other.kill()
        other.communicate()
    with lock.locked():
        pass  # the kernel lets go of what a killed process held


def test_who_waits_gets_it(folder: Path) -> None:
    with holder(folder, 0.3):
        start = time.monotonic()
        with lock.locked():
            assert time.monotonic() - start > 0.05
            assert (folder / "lock").read_text() == str(os.getpid())


def test_a_second_daemon_is_refused_at_once(folder: Path) -> None:
    with lock.only_watcher():
        with lock.locked():
            pass  # grants go on
        with pytest.raises(HostError, match=f"process {os.getpid()}") as caught, lock.only_watcher():
            pass
        assert "stop it" in caught.value.hint
