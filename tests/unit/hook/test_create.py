# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug create`` and ``restore`` in processes of their own, with an xl that writes down how it was started.

Where Xen is needed, it is the one in memory, on a recorded laptop.
"""

import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import _cffi_backend
import click
import pytest

from tests.forked import CHECKOUT, text
from tests.unit.fakes import Recorder, recorder
from xlplug.dom0.find_config import parse
from xlplug.dom0.frozen import thaw
from xlplug.dom0.handover import VARIABLE, Handover, peek
from xlplug.dom0.savefile import parse_head
from xlplug.hook import create
from xlplug.hook.override import overridden

ROOT = Path(__file__).parents[3]
#: What is not of this machine.  Python's own contextlib is left out, because it brings the typing that the hook does without.
WORLD = """
import xlplug.xen.ctrl, xlplug.xen.store
from xlplug.dom0 import domains, snapshot
from xlplug.dom0 import recording
from xlplug.xen.in_memory import MemStore, MemXen
class Opened:
    def __init__(self, what): self.what = what
    def __enter__(self): return self.what
    def __exit__(self, *error): pass
xlplug.xen.ctrl.XenCtrl = lambda: Opened(MemXen())
xlplug.xen.store.XenStore = lambda: Opened(MemStore())
snapshot.take = lambda xen, store, config: recording.load_host({host!r})
"""
#: It starts as what ``make install`` makes of hooks/xlplug does.
PROGRAM = """
import sys
sys.path[:0] = {folders!r}
from xlplug.model import lean_typing
lean_typing.install()
{world}
from xlplug.__main__ import main
main()
"""
#: The environment at its own exec is the kernel's to keep; a process that is forked has that of another program there.
FORKED = """
import os
import xlplug.hook.become, xlplug.hook.create
xlplug.hook.become.first_environment = xlplug.hook.create.first_environment = lambda: dict(os.environb)
"""
#: libxl's own device model, which this machine does not have.
KNOWN_QEMU = "import xlplug.hook.create\nxlplug.hook.create.real = lambda path: path or '/libxl/qemu'\n"
FOLDERS = [str(ROOT), str(Path(_cffi_backend.__file__).parent), str(Path(click.__file__).parents[1])]
PLAIN = b'name="g"\ntype="hvm"\nmemory=64\n'
LEGACY = PLAIN + b'vga="none"\ngfx_passthru="igd"\npci=["00:02.0"]\n'


class Host:
    """A dom0 with an xl, a wrapper and a device model; its PATH, and a folder to stand in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        # -N is how it is asked what it thinks of a config; VERDICT is its answer.
        self.xl = recorder(
            self.bin / "xl",
            then='case "$*" in *-N*) echo JSON; echo "xl: VERDICT" >&2; exit ${VERDICT:-0} ;; esac; exit ${CODE:-0}',
        )
        self.wrapper = folder / "device-model"
        self.wrapper.write_bytes((ROOT / "hooks" / "device-model").read_bytes())
        self.wrapper.chmod(0o755)
        self.qemu = recorder(folder / "qemu").path
        self.program = folder / "program.py"
        host = str(ROOT / "tests" / "recorded" / "hosts" / "igd-laptop.json")
        self.world = WORLD.format(host=host)
        self.program.write_text(PROGRAM.format(folders=FOLDERS, world=self.world))
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "XLPLUG_DEVICE_MODEL": str(self.wrapper),
            "KEEP": "caf\udce9",
        }
        self.config("plain.cfg", PLAIN)
        self.config("legacy.cfg", LEGACY + f'device_model_override="{self.qemu}"\n'.encode())

    def config(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return name

    def run(self, *words: str, stdin: bytes | int = b"", **variables: str) -> subprocess.CompletedProcess[str]:
        return text(self.forked(*words, stdin=stdin, **variables))

    def forked(self, *words: str, stdin: bytes | int = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
        environment = self.environment | variables
        return CHECKOUT.run(*words, stdin=stdin, folder=self.folder, env=environment, before=FORKED + self.world)

    def start(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """By Python, which changes signals and the environment before we are there."""
        return subprocess.run(
            [sys.executable, "-IS", str(self.program), *words], cwd=self.folder, env=self.environment | variables,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip

    @property
    def overridden(self) -> list[str]:
        return [f'device_model_override="{self.wrapper}"', 'device_model_version="qemu-xen"']


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def handed(xl: Recorder) -> str:
    return xl.read().environment[VARIABLE]


# what goes to xl unchanged


@pytest.mark.parametrize(
    "words",
    [
        ["plain.cfg"],
        ["-p", "-c", "plain.cfg", "memory=96", 'name="a b"'],
        ["-f", "plain.cfg", "-V"],
        ["legacy.cfg", "gfx_passthru=0"],
        ["legacy.cfg", 'type="pvh"'],
        ["-n", "legacy.cfg"],
        ["--dryrun", "broken.cfg"],
        ["none.cfg"],
        ["."],
        [],
        ["k=v"],
        ["--no-such-option", "legacy.cfg"],
        ["legacy.cfg", "two.cfg"],
        ["legacy.cfg", "k=v", "-p"],
        ["/dev/null", 'name="g"'],
        ["empty.cfg"],
        [""],
    ],
)
def test_nothing_for_us(host: Host, words: list[str]) -> None:
    host.config("broken.cfg", b"name=\n")
    host.config("empty.cfg", b"")
    done = host.start("create", *words, CODE="5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "")
    record = host.xl.read()
    assert record.argv == [host.xl.path, "create", *words]
    expected = host.environment | {"CODE": "5"}
    del expected["XLPLUG_DEVICE_MODEL"]
    assert record.environment == expected
    assert (record.ignored, record.blocked, record.fds) == (0, 0, [0, 1, 2])


def test_help_behind_the_front_end_is_xls(host: Host) -> None:
    assert host.run("create", "-h", XLPLUG_XL=host.xl.path).returncode == 0
    assert host.xl.read().argv[1:] == ["create", "-h"]


def test_help_of_our_own(host: Host) -> None:
    assert "Run xl create, granting what the domain needs" in host.run("create", "--help").stdout
    assert not host.xl.ran


def test_a_pipe_is_xls_to_refuse(host: Host) -> None:
    """xl takes plain files only; and nothing may be missing from the pipe."""
    reading, writing = os.pipe()
    os.write(writing, LEGACY)
    os.close(writing)
    done = host.run("create", "/dev/stdin", stdin=reading)
    assert (done.returncode, done.stderr) == (0, "")
    assert host.xl.read().argv[1:] == ["create", "/dev/stdin"]
    assert os.read(reading, 4096) == LEGACY
    os.close(reading)


# what is hooked


@pytest.mark.parametrize("words", [["legacy.cfg"], ["-pcq", "legacy.cfg"], ["-f", "legacy.cfg", "memory=96", "x=1"]])
def test_the_wrapper_is_put_in(host: Host, words: list[str]) -> None:
    done = host.start("create", *words, CODE="3", XLPLUG_XL_OPTIONS=" -v -t")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    record = host.xl.read()
    assert record.argv == [host.xl.path, "-v", "-t", "create", *words, *host.overridden]
    assert not [name for name in record.environment if name.startswith("XLPLUG_") and name != VARIABLE]
    assert record.environment["KEEP"] == "caf\udce9"
    assert "LC_CTYPE" not in record.environment
    assert (record.ignored, record.blocked, record.fds) == (0, 0, [0, 1, 2, int(handed(host.xl))])


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["legacy.cfg", "memory=96", 'on_reboot="destroy"'], None),
        (["big.cfg"], None),
        (["/dev/stdin"], "legacy.cfg"),
        (["/dev/null", 'name="g"', 'type="hvm"', "memory=64", 'gfx_passthru="igd"', 'pci=["00:02.0"]',
          'device_model_override="@"'], None),
    ],
)  # fmt: skip
def test_what_is_handed_over(host: Host, words: list[str], stdin: str | None) -> None:
    """Read from the xl that it was handed to, as the watcher does."""
    words = [word.replace("@", host.qemu) for word in words]
    legacy = (host.folder / "legacy.cfg").read_bytes()
    data = {"big.cfg": b"# comment\n" * 110_000 + legacy, "/dev/null": b""}.get(words[0], legacy)
    host.config("big.cfg", data)
    recorder(Path(host.xl.path), then="exec sleep 60")
    file = (host.folder / (stdin or "plain.cfg")).open("rb")
    process = subprocess.Popen(
        [sys.executable, "-IS", str(host.program), "create", *words], cwd=host.folder, env=host.environment, stdin=file
    )
    try:
        end = time.monotonic() + 10
        while not host.xl.ran and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        found = peek(process.pid)
        assert found is not None
        assert found._replace(parsed=b"") == Handover(data, words[0], tuple(words[1:]), host.qemu)
        assert thaw(found.parsed) == parse(data, words[0], tuple(words[1:]))
    finally:
        process.kill()
        process.wait()
        file.close()


@pytest.mark.parametrize("config", ["plain.cfg", "legacy.cfg"])
def test_what_was_handed_over_for_another_domain_is_dropped(host: Host, config: str) -> None:
    """A hotplug script of xl's that creates another domain."""
    host.start("create", config, **{VARIABLE: "7"})
    assert host.xl.read().environment.get(VARIABLE) != "7"


@pytest.mark.parametrize("own", ["", "ours"])
def test_chained_behind_ours_is_the_domains_own(host: Host, own: str) -> None:
    """And never ours again: then it is libxl's default that must be there, which this machine does not have."""
    text = LEGACY + (f'device_model_override="{host.wrapper}"\n'.encode() if own else b"")
    done = host.run("create", host.config("own.cfg", text))
    assert (done.returncode, host.xl.ran) == (1, False)
    assert done.stderr.startswith("xlplug: this machine does not run on Xen")


# what is refused before anything is created


def refusal(host: Host, *words: str, code: int = 1, **variables: str) -> str:
    """The one line; xl has created nothing."""
    done = host.run(*words, **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert not host.xl.ran or "-N" in host.xl.read().argv
    lines = [line for line in done.stderr.splitlines() if not line.startswith("xlplug: warning: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('pci=["00:1b.7"]', "refused: "),
        ("maxmem=128", "refused: maxmem=128 is more than memory=64"),
        ('device_model_override="/opt/none"', "the device model /opt/none is missing or not executable; install it"),
        ('device_model_version="qemu-xen-traditional"', "legacy rights are for device_model_version qemu-xen"),
        ("device_model_stubdomain_override=1", 'traditional; write device_model_version="qemu-xen"'),
    ],
)
def test_refused(host: Host, more: str, message: str) -> None:
    line = refusal(host, "create", "legacy.cfg", more)
    assert line.startswith("xlplug: ")
    assert message in line


def test_a_config_that_xl_rejects_is_xls_to_reject(host: Host) -> None:
    host.config("broken.cfg", b'name="g\n')
    for words in (
        ["broken.cfg"],
        ["-p", "broken.cfg", "memory=64"],
        ["broken.cfg", "k=v"],
        ["legacy.cfg", "nonsense=="],
    ):
        done = host.start("create", *words, VERDICT="3")
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "xl: VERDICT\n"), words
        record = host.xl.read()
        assert record.argv == [host.xl.path, "-N", "create", *words]
        assert record.ignored == 0
        assert "LC_CTYPE" not in record.environment


def test_a_config_that_only_we_reject(host: Host) -> None:
    host.config("odd.cfg", LEGACY + b'ioports=["3c0-3b0"]\n')
    done = host.run("create", "odd.cfg")
    assert done.returncode == 1
    assert done.stderr.startswith("xl: VERDICT\nxlplug: odd.cfg:7: ioports: '3c0-3b0' is not valid; write FIRST-LAST")
    assert host.xl.read().argv == [host.xl.path, "-N", "create", "odd.cfg"]


@pytest.mark.parametrize("config", ["plain.cfg", "legacy.cfg", "broken.cfg"])
def test_no_xl(host: Host, config: str) -> None:
    host.config("broken.cfg", b"name=\n")
    Path(host.xl.path).unlink()
    line = refusal(host, "create", config)
    assert line == "xlplug: no xl in PATH; install it (Debian: xen-system-amd64), or correct PATH [XLP601]"


def test_only_front_ends_in_path(host: Host) -> None:
    Path(host.xl.path).write_bytes((ROOT / "hooks" / "xl").read_bytes())
    for variables in ({}, {"XLPLUG_XL": host.xl.path}):
        assert "no xl in PATH" in refusal(host, "create", "plain.cfg", **variables)
    assert "/none/xl is not xl" in refusal(host, "create", "plain.cfg", XLPLUG_XL="/none/xl")


def test_past_a_second_front_end(host: Host) -> None:
    """The first one has taken it for xl, unread."""
    second = host.folder / "second" / "xl"
    second.parent.mkdir()
    second.write_bytes((ROOT / "hooks" / "xl").read_bytes())
    second.chmod(0o755)
    done = host.run("create", "plain.cfg", XLPLUG_XL=str(second), PATH=f"{second.parent}:{host.environment['PATH']}")
    assert (done.returncode, done.stderr) == (0, "")
    assert host.xl.read().argv == [host.xl.path, "create", "plain.cfg"]


def test_an_xl_that_cannot_be_executed(host: Host) -> None:
    Path(host.xl.path).write_text("#!/nowhere\n")
    line = refusal(host, "create", "plain.cfg")
    assert (
        line == f"xlplug: {host.xl.path}: No such file or directory; reinstall it (Debian: xen-utils-common) [XLP601]"
    )


def test_no_wrapper(host: Host) -> None:
    host.wrapper.write_text("#!/bin/sh\n")  # some other program
    for config, runs in (("legacy.cfg", False), ("plain.cfg", True)):
        done = host.run("create", config)
        assert host.xl.ran == runs
        assert runs or f"no device model wrapper at {host.wrapper}; run 'xlplug hook install'" in done.stderr


def test_a_wrapper_whose_path_xl_cannot_read(host: Host) -> None:
    odd = host.folder / 'a"b'
    odd.write_bytes(host.wrapper.read_bytes())
    odd.chmod(0o755)
    assert "cannot be written in an xl config" in refusal(host, "create", "legacy.cfg", XLPLUG_DEVICE_MODEL=str(odd))


# restore


def saved(override: str, *, legacy: bool = True) -> bytes:
    """As ``xl save`` writes it: libxl's JSON, after which comes libxl's stream."""
    hvm = '"vga":{"kind":"none"}' + (',"gfx_passthru":"True","gfx_passthru_kind":"igd"' if legacy else "")
    text = (
        f'{{"c_info":{{"type":"hvm","name":"g"}},"b_info":{{"max_memkb":65536,"target_memkb":65536,'
        f'"device_model_version":"qemu_xen","device_model":"{override}","type.hvm":{{{hvm}}}}},'
        f'"pcidevs":[{{"dev":2,"bus":0,"func":0}}]}}'
    ).encode() + b"\0"
    optional = struct.pack("<I", len(text)) + text
    head = b"Xen saved domain, xl format\n \0 \r" + struct.pack("<IIII", 0x01020304, 3, 0, len(optional))
    return head + optional + b"libxl stream"


@pytest.mark.parametrize("words", [["none"], ["plain"], ["-p", "legacy.cfg", "plain", "x"], ["garbage"], ["-h"], []])
def test_restore_that_is_xls(host: Host, words: list[str]) -> None:
    host.config("plain", saved("", legacy=False))
    host.config("garbage", b"garbage")
    done = host.run("restore", *words, XLPLUG_XL=host.xl.path)
    assert (done.returncode, done.stderr) == (0, "")
    record = host.xl.read()
    assert record.argv == [host.xl.path, "restore", *words]
    assert VARIABLE not in record.environment


def test_restore_with_a_config(host: Host) -> None:
    host.config("save", b"")
    recorder(Path(host.xl.path), then=f"cat $(eval echo \\${{$(($# - 1))}}) >{host.folder}/read")
    done = host.run("restore", "-p", "legacy.cfg", "save")
    assert (done.returncode, done.stderr) == (0, "")
    record = host.xl.read()
    config = record.argv[3]
    assert record.argv == [host.xl.path, "restore", "-p", config, "save"]
    legacy = (host.folder / "legacy.cfg").read_text()
    assert (host.folder / "read").read_text() == legacy + "\n" + "\n".join(host.overridden) + "\n"
    # The wrapper closes both: the device model sees none of them.
    assert config.startswith("/proc/self/fd/")
    fds = [int(word) for word in handed(host.xl).split(",")]
    assert fds[1] == int(config.rpartition("/")[2])
    assert record.fds == [0, 1, 2, *sorted(fds)]


def test_restore_of_what_was_hooked(host: Host) -> None:
    host.config("save", saved(str(host.wrapper)))
    done = host.run("restore", "save")  # libxl's own device model is needed, which this machine does not have
    assert (done.returncode, host.xl.ran) == (1, False)
    assert "does not run on Xen" in done.stderr
    host.world += KNOWN_QEMU
    done = host.run("restore", "save")
    assert (done.returncode, done.stderr) == (0, "")
    assert host.xl.read().argv == [host.xl.path, "restore", "save"]
    assert handed(host.xl).isdecimal()


@pytest.mark.parametrize(("override", "legacy"), [("", True), ("/opt/qemu", True), ("@", False)])
def test_restore_of_what_was_not(host: Host, override: str, legacy: bool) -> None:
    """@: hooked for xlplug_map_legacy, which libxl does not keep."""
    host.config("save", saved(override.replace("@", str(host.wrapper)), legacy=legacy))
    line = refusal(host, "restore", "save")
    assert line == "xlplug: save: the saved domain does not say what to grant; run: xl restore CONFIG FILE [XLP211]"


# what comes through a pipe


class Sent:
    """Starts the program with a domain on its way, as sshd does; ``read`` is what xl has read."""

    def __init__(self, host: Host, *, known_qemu: bool = True) -> None:
        self.host = host
        self.file = host.folder / "read"
        recorder(Path(host.xl.path), then=f"cat ${{FROM:-/dev/stdin}} >{self.file}; exit ${{CODE:-0}}")
        if known_qemu:
            host.world += KNOWN_QEMU

    def __call__(self, data: bytes, *words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        return self.host.forked("migrate-receive", *words, stdin=data, **variables)

    def config(self) -> dict[str, dict[str, object]]:
        data = self.file.read_bytes()
        head = parse_head(data.removesuffix(b"libxl stream"))
        assert head is not None
        assert head.config.endswith(b"}\0")
        value = json.loads(head.config[:-1])
        assert isinstance(value, dict)
        return value


@pytest.mark.parametrize(
    "data", [saved("", legacy=False), saved("/opt/qemu", legacy=False), saved("")[:200], b"garbage", b""]
)
def test_a_domain_that_comes_and_needs_nothing(host: Host, data: bytes) -> None:
    sent = Sent(host)
    done = sent(data, "-p", XLPLUG_XL_OPTIONS=" -v -T", CODE="9")
    assert (done.returncode, done.stdout, done.stderr) == (9, b"", b"")
    assert sent.file.read_bytes() == data
    record = host.xl.read()
    assert record.argv == [host.xl.path, "-v", "-T", "migrate-receive", "-p"]
    assert record.fds == [0, 1, 2, int(record.environment[VARIABLE])]


# whose wrapper the sender's was: none, this host's, that of another prefix; a device model of its own
@pytest.mark.parametrize("override", ["", "@", "/opt/else/lib/xlplug/device-model", "/opt/qemu"])
def test_a_domain_that_comes_gets_this_hosts_wrapper(host: Host, override: str) -> None:
    sent = Sent(host)
    recorder(
        Path(host.xl.path),
        then=f"cat >{sent.file}; tr '\\000' '\\001' </proc/self/fd/$XLPLUG_HANDOVER >{host.folder}/given",
    )
    data = saved(override.replace("@", str(host.wrapper)))
    done = sent(data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sent.config()["b_info"]["device_model"] == str(host.wrapper)
    expected = parse_head(data.removesuffix(b"libxl stream"))
    assert expected is not None
    theirs = json.loads(expected.config[:-1])
    theirs["b_info"]["device_model"] = str(host.wrapper)
    assert sent.config() == theirs
    assert sent.file.read_bytes().endswith(b"libxl stream")
    if override == "@":
        assert sent.file.read_bytes() == data
    words = (host.folder / "given").read_bytes().split(b"\1")
    assert words[2] == (b"/opt/qemu" if override == "/opt/qemu" else b"")


def test_a_hooked_domain_that_comes_without_what_it_was_hooked_for(host: Host) -> None:
    """Hooked for xlplug_preload, which libxl does not hand on; its RAM comes along anyway."""
    sent = Sent(host)
    data = saved(str(host.wrapper), legacy=False)
    assert sent(data).returncode == 0
    assert sent.file.read_bytes() == data
    assert handed(host.xl).isdecimal()


def test_a_domain_that_comes_and_is_refused(host: Host) -> None:
    sent = Sent(host)
    done = sent(saved("").replace(b'"dev":2,', b'"dev":9,'), CODE="1")
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert b"xlplug: refused: 0000:00:09.0: no such PCI device" in done.stderr
    assert sent.file.read_bytes() == b"", "xl reads nothing, so nothing is created"


def test_a_domain_that_comes_and_no_wrapper(host: Host) -> None:
    sent = Sent(host)
    for data in (saved(""), saved("/else/xlplug/device-model", legacy=False)):
        done = sent(data, XLPLUG_DEVICE_MODEL="/none")
        assert done.stderr == b"xlplug: there is no device model wrapper at /none; run 'xlplug hook install' [XLP602]\n"
        assert sent.file.read_bytes() == b""


@pytest.mark.parametrize("words", [["-x"], ["x"], ["-h"], ["--help"]])
def test_receiving_that_xl_answers_itself(host: Host, words: list[str]) -> None:
    done = Sent(host)(b"", *words, XLPLUG_XL=host.xl.path)
    assert (done.returncode, done.stderr) == (0, b"")
    record = host.xl.read()
    assert record.argv[1:] == ["migrate-receive", *words]
    assert VARIABLE not in record.environment


def test_receiving_from_a_terminal_is_xls(host: Host) -> None:
    """What is typed must not vanish in a process of ours."""
    import pty

    recorder(Path(host.xl.path))
    main, terminal = pty.openpty()
    done = host.run("migrate-receive", stdin=terminal)
    assert (done.returncode, done.stderr) == (0, "")
    assert VARIABLE not in host.xl.read().environment
    os.close(main)
    os.close(terminal)


def test_receiving_without_xl(host: Host) -> None:
    os.unlink(host.xl.path)
    assert refusal(host, "migrate-receive").startswith("xlplug: no xl in PATH; install it")


def test_restore_from_a_pipe(host: Host) -> None:
    """``xl restore <(ssh host cat save)``."""
    sent = Sent(host)
    recorder(Path(host.xl.path), then=f"for file; do :; done; cat $file >{sent.file}")
    os.mkfifo(host.folder / "fifo")
    writer = threading.Thread(target=(host.folder / "fifo").write_bytes, args=(saved(""),), daemon=True)
    writer.start()
    done = host.run("restore", "-p", "fifo")
    assert (done.returncode, done.stderr) == (0, "")
    assert sent.config()["b_info"]["device_model"] == str(host.wrapper)
    record = host.xl.read()
    reserved, fd = handed(host.xl).split(",")
    assert record.argv[2:] == ["-p", f"/proc/self/fd/{fd}"]
    assert record.fds == [0, 1, 2, *sorted((int(reserved), int(fd)))]


def test_a_pipe_that_may_not_be_read_is_xls_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")

    def refuse(*arguments: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    assert create._open_pipe(str(tmp_path / "fifo")) is None
    assert create._open_pipe(str(tmp_path / "none")) is None


def test_what_xl_list_prints_is_given_the_wrapper_too() -> None:
    """It wraps the configuration; xl takes that from nobody, and says so itself."""
    value = {"config": {"c_info": {"type": "hvm"}, "b_info": {"device_model": "/opt/qemu"}}}
    data = json.dumps(value).encode()
    made = overridden(data, "/wrapper", parse(data, "x"))
    assert json.loads(made.rstrip(b"\0"))["config"]["b_info"]["device_model"] == "/wrapper"
