# SPDX-License-Identifier: LGPL-2.1-only
"""``hook install`` and ``uninstall`` killed before each of their changes: either can be run after it."""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xlplug.hook import install
from xlplug.model.errors import HostError

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.symlink")


def tree(folder: Path) -> dict[str, bytes | str | None]:
    def content(path: Path) -> bytes | str | None:
        return os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()

    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))}


def killed(run: Callable[[], object], at: int, below: Path) -> bool:
    """Run it in a process that is killed before its change number ``at``; whether it came that far."""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in CHANGES or writes) and str(args[0]).startswith(str(below)):
                if seen == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.addaudithook(hook)
        try:
            run()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def older(prefix: Path) -> None:
    """What an older version, with another wrapper and another front end, has installed."""
    install.install(str(prefix))
    manifest = prefix / "lib/xlplug/manifest"
    for name in ("lib/xlplug/device-model", "sbin/xl"):
        data = (prefix / name).read_bytes()
        (prefix / name).write_bytes(data + b"# older\n")
        digests = [hashlib.sha256(each).hexdigest() for each in (data, data + b"# older\n")]
        manifest.write_text(manifest.read_text().replace(*digests))


@pytest.mark.parametrize("start", ["nothing", "folders", "an older version"])
def test_an_installation_that_is_killed_can_be_repeated_and_removed(
    tmp_path: Path, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    prefix = base / "deep" / "prefix"
    if start == "folders":
        for name in ("sbin", "lib/other"):
            (prefix / name).mkdir(parents=True)
    empty = tree(base)
    if start == "an older version":
        older(prefix)
    shutil.copytree(base, tmp_path / "start")

    def again() -> None:
        shutil.rmtree(base)
        shutil.copytree(tmp_path / "start", base)

    install.install(str(prefix))
    whole = tree(base)
    at = 0
    while True:
        again()
        if not killed(lambda: install.install(str(prefix)), at, base):
            break
        shutil.copytree(base, tmp_path / f"killed-{at}")
        assert install.install(str(prefix)) == 0
        assert tree(base) == whole, at
        shutil.rmtree(base)
        (tmp_path / f"killed-{at}").rename(base)
        try:
            assert install.uninstall(str(prefix)) == 0
        except HostError as error:  # nothing had been done, or nothing but
            assert "is not installed" in error.message
        assert tree(base) == empty, at
        at += 1
    assert tree(base) == whole
    assert at > 10, "the kill is before each change"
    capsys.readouterr()


@pytest.mark.parametrize("others", [False, True])
def test_a_removal_that_is_killed_can_be_repeated(
    tmp_path: Path, others: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "prefix"
    at = 0
    while True:
        if others:
            (prefix / "lib/other").mkdir(parents=True)
        install.install(str(prefix))
        if not killed(lambda: install.uninstall(str(prefix)), at, tmp_path):
            break
        try:
            assert install.uninstall(str(prefix)) == 0
        except HostError as error:
            assert "is not installed" in error.message
        assert [name for name, data in tree(tmp_path).items() if data is not None] == [], at
        shutil.rmtree(prefix, ignore_errors=True)
        at += 1
    assert at > 5
    assert tree(tmp_path) == ({"prefix": None, "prefix/lib": None, "prefix/lib/other": None} if others else {})
    capsys.readouterr()
