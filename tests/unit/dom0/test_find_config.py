# SPDX-License-Identifier: LGPL-2.1-only
"""Where configurations come from: files as xl takes them, handovers, and processes that are xl."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.abi.oracle import require
from xlplug.dom0 import files, find_config, running_xl
from xlplug.dom0.find_config import being_created, parse, read_as_xl
from xlplug.dom0.handover import Handover, offer
from xlplug.model.errors import ConfigError

UUID = "00000000-0000-0000-0000-000000000001"
CONFIG = b'name="srcg"\ntype="hvm"\nmemory=64\ngfx_passthru="igd"\n'


def test_xl_and_json_are_told_apart() -> None:
    assert parse(CONFIG, "g.cfg").name == "srcg"
    assert parse(CONFIG, "g.cfg", ['name="other"']).name == "other"
    text = b' {"c_info":{"type":"hvm","name":"j"},"b_info":{"device_model":"/d","type.hvm":{"gfx_passthru":"True"}}}\0'
    config = parse(text, "save")
    assert (config.name, config.device_model_override, config.wants_legacy) == ("j", "/d", True)


@pytest.mark.parametrize("data", [b"{", b"{}", b'{"c_info":1}', b'{"a":' + b"[" * 100_000, b"{\xff}"])
def test_json_that_is_not_libxls(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^g.json: .*; give the") as raised:
        parse(data, "g.json")
    assert "\n" not in str(raised.value)


def test_files_as_xl_reads_them(tmp_path: Path) -> None:
    (tmp_path / "g.cfg").write_bytes(CONFIG)
    (tmp_path / "empty").touch()
    assert read_as_xl(str(tmp_path / "g.cfg")) == CONFIG
    assert read_as_xl(str(tmp_path / "empty")) == b""
    assert read_as_xl("/dev/null") == b""
    for path in ("none", ".", "g.cfg/x", ""):
        assert read_as_xl(str(tmp_path / path) if path else "") is None
    assert read_as_xl("/dev/zero") is None


def test_a_big_config_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").write_bytes(b"# comment\n" * 110_000 + CONFIG)
    data = read_as_xl(str(tmp_path / "big"))
    assert data is not None
    assert parse(data, "big").wants_legacy
    monkeypatch.setattr(files, "MAX_BYTES", len(data))
    assert read_as_xl(str(tmp_path / "big")) == data
    monkeypatch.setattr(files, "MAX_BYTES", len(data) - 1)  # never cut short without a word
    with pytest.raises(ConfigError, match=r"big: more than 1 MiB; give the path"):
        read_as_xl(str(tmp_path / "big"))


def test_stdin_is_read_where_xl_can_read_it(tmp_path: Path) -> None:
    """A redirected file, from its beginning and as often as one likes; a pipe never, and nothing is taken out of it."""
    (tmp_path / "g.cfg").write_bytes(CONFIG)
    script = "from xlplug.dom0.find_config import read_as_xl as r; print(r('/dev/stdin'), r('/dev/stdin'), input())"
    with (tmp_path / "g.cfg").open("rb") as file:
        done = subprocess.run([sys.executable, "-c", script], stdin=file, capture_output=True, text=True)
    assert done.stdout == f'{CONFIG} {CONFIG} name="srcg"\n'
    done = subprocess.run([sys.executable, "-c", script], input="left\n", capture_output=True, text=True)
    assert done.stdout == "None None left\n"


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    thread = threading.Thread(target=read_as_xl, args=(str(tmp_path / "fifo"),), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


Xl = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def xl(tmp_path: Path) -> Iterator[Xl]:
    """Start ``xl create WORDS...``: a shell that runs the file ``create``, and waits.

    For somebody to write into a pipe, and not in a loop with ``sleep``: until it is that, the child is one more ``xl create``.
    """
    started: list[subprocess.Popen[bytes]] = []
    os.mkfifo(tmp_path / "never")
    (tmp_path / "create").write_text(f"echo; : <'{tmp_path}/never'\n")

    def run(*words: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["xl", "create", *words], executable="/bin/dash", cwd=tmp_path, close_fds=False,
            env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        process.stdout.read(1)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_nobody_creates_it() -> None:
    assert being_created("srcg-nobody", UUID, igd=False) is None


def test_a_running_xl_has_it(xl: Xl, tmp_path: Path) -> None:
    (tmp_path / "other.cfg").write_bytes(CONFIG.replace(b"srcg", b"other"))
    (tmp_path / "bad.cfg").write_bytes(b"name=\n")
    (tmp_path / "g.cfg").write_bytes(CONFIG)
    xl("g.cfg", 'device_model_override="/opt/qemu"')
    xl("other.cfg")
    xl("bad.cfg")  # another domain's: xl has accepted this one's
    xl("gone.cfg")
    found = being_created("srcg", UUID, igd=False)
    assert found is not None
    assert not found.hooked
    assert found.config.device_model_override == "/opt/qemu"


def test_the_latest_of_two(xl: Xl, tmp_path: Path) -> None:
    (tmp_path / "old.cfg").write_bytes(CONFIG)
    (tmp_path / "new.cfg").write_bytes(CONFIG + b'device_model_override="/opt/new"\n')
    xl("old.cfg")
    xl("new.cfg")
    found = being_created("srcg", UUID, igd=False)
    assert found is not None
    assert found.config.device_model_override == "/opt/new"


def test_a_process_that_has_to_wait_while_it_looks_finds_the_latest_all_the_same(
    xl: Xl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two readings of the clock it may be gone for longer than the two processes are apart."""
    for name in ("old", "new"):
        (tmp_path / f"{name}.cfg").write_bytes(CONFIG + f'device_model_override="/opt/{name}"\n'.encode())
        xl(f"{name}.cfg")
    real = time.clock_gettime
    waits = 0.0

    def late(clock: int) -> float:
        nonlocal waits
        waits += 7
        return real(clock) + waits

    monkeypatch.setattr(running_xl.time, "clock_gettime", late)
    found = [creator.config for creator in running_xl.creators() if str(tmp_path) in creator.config]
    assert found == [str(tmp_path / "new.cfg"), str(tmp_path / "old.cfg")]


def test_config_on_the_command_line_only(xl: Xl) -> None:
    xl("/dev/null", 'name="srcg"', 'type="hvm"', 'gfx_passthru="igd"')
    found = being_created("srcg", UUID, igd=False)
    assert found is not None
    assert found.config.wants_legacy


def test_what_was_handed_over_comes_before_the_file(xl: Xl, tmp_path: Path) -> None:
    """The file may have been changed; what was handed over cannot."""
    (tmp_path / "g.cfg").write_bytes(CONFIG.replace(b"igd", b"default"))
    xl("g.cfg", **dict([offer(Handover(CONFIG, "g.cfg", ("memory=96",)))]))
    found = being_created("srcg", UUID, igd=False)
    assert found is not None
    assert (found.config.gfx_passthru, found.config.memory, found.hooked) == ("igd", 96, True)


def test_a_handover_of_what_is_not_xl_any_more(xl: Xl, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was counted as xl; by the time that it is asked it is another one, whose environment is anybody's."""
    process = xl("g.cfg")
    (creator,) = (creator for creator in running_xl.creators() if creator.pid == process.pid)
    environment = dict([offer(Handover(CONFIG, "g.cfg"))])
    with subprocess.Popen(["sleep", "100"], env=environment, close_fds=False) as other:
        monkeypatch.setattr(running_xl, "creators", lambda: [creator._replace(pid=other.pid)])
        found = being_created("srcg", UUID, igd=False)
        other.kill()
    assert found is None


def test_a_child_of_xl_that_execs_meanwhile(xl: Xl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked like xl when the processes were counted, and in the midst of exec as if nothing had been handed over."""
    (tmp_path / "g.cfg").write_bytes(CONFIG.replace(b"igd", b"default"))
    process = xl("g.cfg", **dict([offer(Handover(CONFIG, "g.cfg"))]))
    (parent,) = (creator for creator in running_xl.creators() if creator.pid == process.pid)
    with subprocess.Popen(["sleep", "100"], cwd=tmp_path, env={}) as child:
        monkeypatch.setattr(running_xl, "creators", lambda: [parent._replace(pid=child.pid), parent])
        found = being_created("srcg", UUID, igd=False)
        child.kill()
    assert found is not None
    assert (found.config.gfx_passthru, found.hooked) == ("igd", True)


@pytest.mark.parametrize("change", [lambda path: os.utime(path, (time.time() + 60,) * 2), Path.unlink])
def test_a_file_that_was_changed_since(
    xl: Xl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "g.cfg"
    path.write_bytes(CONFIG)
    xl("g.cfg")
    if change is Path.unlink:  # between reading and looking
        reading = find_config.read_as_xl

        def read(name: str) -> bytes | None:
            data = reading(name)
            if data == CONFIG:
                path.unlink()
            return data

        monkeypatch.setattr(find_config, "read_as_xl", read)
    else:
        change(path)
    with pytest.raises(ConfigError, match=r"g.cfg: changed since xl read it; destroy srcg and create it again"):
        being_created("srcg", UUID, igd=False)


def test_a_file_whose_mtime_was_set_back(xl: Xl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write it can do that, but not set its ctime."""
    monkeypatch.setattr(find_config, "_SLACK", 0.0)
    path = tmp_path / "g.cfg"
    path.write_bytes(CONFIG)
    time.sleep(0.1)  # a process's start is known to 10 ms
    xl("g.cfg")
    assert being_created("srcg", UUID, igd=False) is not None
    time.sleep(0.1)
    path.write_bytes(CONFIG)
    os.utime(path, (0, 0))
    with pytest.raises(ConfigError, match="changed since xl read it"):
        being_created("srcg", UUID, igd=False)


def test_a_link_that_led_to_another_file(xl: Xl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are older than xl; only the link is new."""
    monkeypatch.setattr(find_config, "_SLACK", 0.0)
    path = tmp_path / "g.cfg"
    for name, memory in (("reviewed", b"64"), ("other", b"96")):
        (tmp_path / name).write_bytes(CONFIG.replace(b"64", memory))
    path.symlink_to("reviewed")
    time.sleep(0.1)  # a process's start is known to 10 ms
    xl("g.cfg")
    assert being_created("srcg", UUID, igd=False) is not None
    time.sleep(0.1)
    path.unlink()
    path.symlink_to("other")
    with pytest.raises(ConfigError, match="changed since xl read it"):
        being_created("srcg", UUID, igd=False)


def test_a_file_that_xl_does_not_see(xl: Xl, tmp_path: Path) -> None:
    """A service with a /tmp of its own, and in everybody's /tmp a file of the same name."""
    if os.geteuid() != 0:
        require("root", "only root can mount")
    for name in ("own", "tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "g.cfg").write_bytes(CONFIG)
    enter = f"mount --bind {tmp_path}/own {tmp_path}/tmp && exec -a xl /bin/dash create tmp/g.cfg"
    xl("tmp/g.cfg")
    assert being_created("srcg", UUID, igd=False) is not None
    words = ["unshare", "-m", "bash", "-c", enter]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.read(1) != b"\n":
            require("mount", "a container that may mount")
        creators = [creator for creator in running_xl.creators() if creator.pid == process.pid]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running_xl, "creators", lambda: creators)
            found = being_created("srcg", UUID, igd=False)
        process.kill()
    assert len(creators) == 1
    assert found is None


def test_a_config_on_stdin_was_not_changed(xl: Xl, tmp_path: Path) -> None:
    """The link to it in /proc is made when it is looked at."""
    path = tmp_path / "g.cfg"
    path.write_bytes(CONFIG)
    os.utime(path, (0, 0))
    with path.open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        time.sleep(0.05)
        xl(f"/dev/fd/{file.fileno()}")
        time.sleep(find_config._SLACK + 0.1)
        assert being_created("srcg", UUID, igd=False) is not None


def test_libvirts_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srcg.xml").write_text(
        f"<domain><name>srcg</name><uuid>{UUID}</uuid><os><type>hvm</type></os></domain>"
    )
    monkeypatch.setattr(find_config.libvirt_definition, "__defaults__", ((str(tmp_path),),))
    found = being_created("srcg", UUID, igd=True)
    assert found is not None
    assert found.config.wants_legacy
