# SPDX-License-Identifier: LGPL-2.1-only
"""Finding xl's processes: real ones, of a shell that calls itself xl."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.abi.oracle import require
from xlplug.dom0.running_xl import Creator, creates, creators
from xlplug.hook.wrapper import borrowed

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``xl WORDS...``: a shell, whose script is the file named like the subcommand."""
    started: list[subprocess.Popen[bytes]] = []
    for name in ("create", "cr", "list"):
        (tmp_path / name).write_text("echo; cd ${GO:-.}; read -r _ </dev/null; while :; do sleep 0.1; done\n")

    def run(*words: str, argv0: str = "xl", **options: object) -> subprocess.Popen[bytes]:
        settings = {"cwd": tmp_path, "stdin": subprocess.DEVNULL} | options
        process = subprocess.Popen(
            [argv0, *words], executable="/bin/dash", stdout=subprocess.PIPE, **settings,  # type: ignore[call-overload]
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\n"
        time.sleep(0.02)  # its own cd
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def found(*processes: subprocess.Popen[bytes]) -> list[Creator]:
    pids = [process.pid for process in processes]
    return [creator for creator in creators() if creator.pid in pids]


def test_a_creating_xl_is_found(start: Start, tmp_path: Path) -> None:
    before = time.time()
    process = start("create", "-p", "g.cfg", "memory=64", "name='a b'")
    (creator,) = found(process)
    assert creator.config == str(tmp_path / "g.cfg")
    assert creator.create.extra == ("memory=64", "name='a b'")
    assert before - 0.1 <= creator.started <= time.time() + 0.1


def test_the_latest_comes_first(start: Start) -> None:
    processes = [start("cr", f"{i}.cfg", argv0="/usr/lib/xen-4.17/bin/xl") for i in range(3)]
    assert [creator.create.path for creator in found(*processes)] == ["2.cfg", "1.cfg", "0.cfg"]


def test_whose_creation_it_is(start: Start) -> None:
    pid = start("-v", "create", "-p", "g.cfg", "memory=64", 'device_model_override="/w"').pid
    assert creates(pid, "g.cfg", ("memory=64",))
    assert creates(pid, "g.cfg", ())
    assert not creates(pid, "other.cfg", ("memory=64",))
    assert not creates(pid, "g.cfg", ("memory=96",))
    assert not creates(pid, "g.cfg", ("memory=64", 'device_model_override="/w"', "x=1"))
    assert not creates(start("list", "g.cfg").pid, "g.cfg", ())
    assert not creates(1 << 22, "g.cfg", ()), "it has ended"


def test_others_are_not(start: Start) -> None:
    others = [
        start("list", "g.cfg"),
        start("create", "g.cfg", argv0="exl"),
        start("create", "-n", "g.cfg"),
        start("create"),
    ]
    assert found(*others) == []


@pytest.mark.parametrize("path", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_a_config_on_its_stdin_is_not_ours(start: Start, tmp_path: Path, path: str) -> None:
    (tmp_path / "g.cfg").write_text('name="g"\n')
    with (tmp_path / "g.cfg").open("rb") as file:
        (creator,) = found(start("create", path, stdin=file))
    assert Path(creator.config).read_text() == 'name="g"\n'


def test_xls_daemon_has_left_its_folder(start: Start, tmp_path: Path) -> None:
    """It makes the domain anew when the guest reboots (xl_utils.c, do_daemonize, calls daemon(3))."""
    environment = {"GO": "/", "PWD": str(tmp_path), "PATH": os.environ["PATH"]}
    relative, absolute = start("create", "g.cfg", env=environment), start("create", "/etc/g.cfg", env=environment)
    assert {creator.config for creator in found(relative, absolute)} == {str(tmp_path / "g.cfg"), "/etc/g.cfg"}


def test_another_users_xl_is_not_believed(start: Start, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        require("root", "only root can start another user's process")
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "create").write_bytes((tmp_path / "create").read_bytes())
        process = start("create", "/tmp/evil.cfg", user=65534, cwd=folder)
        assert Path(f"/proc/{process.pid}/cmdline").read_bytes() == b"xl\0create\0/tmp/evil.cfg\0"
        assert found(process) == []


def test_a_setuid_program_of_another_users_is_not_believed() -> None:
    """It is root's by its effective user, and all that it was started with is the other user's."""
    if os.geteuid() != 0:
        require("root", "only root can start another user's process")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        cat = folder / "cat"
        cat.write_bytes(Path("/bin/cat").read_bytes())
        (folder / "create").touch()
        os.mkfifo(folder / "evil.cfg")  # which it waits for
        for mode, uids, expected in ((0o4755, "65534 0 0 0", 0), (0o4755, "0 0 0 0", 0), (0o755, "0 0 0 0", 1)):
            cat.chmod(mode)
            user = int(uids.split()[0])
            words = ["xl", "create", str(folder / "evil.cfg")]
            with subprocess.Popen(words, executable=cat, user=user, cwd=folder) as process:
                status = Path(f"/proc/{process.pid}/status").read_text()
                believed = len(found(process))
                process.kill()
            if f"Uid:\t{uids}".replace(" ", "\t") not in status:
                require("setuid", "a file system that takes setuid programs")
            assert believed == expected, (mode, uids)


def test_a_process_that_ends_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "cmdline").write_bytes(b"xl\0create\0g.cfg\0")
    (tmp_path / "2" / "status").touch()
    (tmp_path / "net").mkdir()
    assert list(creators(str(tmp_path))) == []


def test_a_borrowed_descriptor_shares_its_offset(tmp_path: Path) -> None:
    """A line of ours is not written over by what xl writes next."""
    with (tmp_path / "log").open("wb") as file:
        script = "echo one >&2; echo; read -r _; echo three >&2"
        process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file)
        assert process.stdout is not None
        process.stdout.readline()
        fd = borrowed(process.pid, 2)
        assert not os.get_inheritable(fd)
        os.write(fd, b"two\n")
        os.close(fd)
        process.communicate(b"\n")
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        borrowed(os.getpid(), 999)
    with pytest.raises(ProcessLookupError):
        borrowed(process.pid, 2)
