# SPDX-License-Identifier: LGPL-2.1-only
"""The device model wrapper as libxl runs it: real fork, exec, memfd and descriptors; Xen in memory where it is needed."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import _cffi_backend
import pytest

from tests.unit.fakes import recorder
from xlplug.delegate import record
from xlplug.dom0 import find_config, snapshot
from xlplug.dom0.handover import VARIABLE, Handover
from xlplug.hook import wrapper as hook
from xlplug.hook.device_model import PRELOAD
from xlplug.model.addr import Domid
from xlplug.model.errors import ApplyError, ConfigError, Refused, StoreError
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo
from xlplug.xen.in_memory import MemStore, MemXen

ROOT = Path(__file__).parents[3]
PLAIN = b'name="g"\ntype="hvm"\n'
LEGACY = b'name="g"\ntype="hvm"\nmemory=64\nvga="none"\ngfx_passthru="igd"\npci=["00:02.0"]\n'
UUID = "00000000-0000-0000-0000-000000000007"

# libxl_exec.c, libxl__spawn_spawn and libxl__exec: xl forks a middle process, that one the device model, whose stdin is
# null and whose output is its log; other descriptors are left as they are.
LIBXL = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from xlplug.dom0.handover import Handover, offer
argv, log, offered = json.load(open(sys.argv[2]))
if offered is not None:
    data, path, device_model = offered
    name, value = offer(Handover(data.encode(), path, (), device_model))
    os.environ[name] = value
os.environ.pop("LC_CTYPE", None)  # this is xl, and no Python
if not os.fork():
    child = os.fork()
    if not child:
        null, out = os.open("/dev/null", os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for fd, number in ((null, 0), (out, 1), (out, 2)):
            os.dup2(fd, number)
        os.dup2(null, 40)
        os.environ["XEN_DOMAIN_ID"] = "7"
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execv(argv[0], argv)
    print(child, flush=True)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
code = os.waitstatus_to_exitcode(os.wait()[1])
os.write(2, b"libxl: error: it exited\\n")
sys.exit(code)
"""
ARGV = ["-xen-domid", "7", "-no-shutdown", "-name", "a b", "-machine", "pc,accel=xen,igd-passthru=on", ""]


@pytest.fixture
def wrapper(tmp_path: Path) -> str:
    """hooks/device-model as ``xlplug hook install`` writes it for this interpreter."""
    lines = (ROOT / "hooks" / "device-model").read_text().split("\n")
    lines[0] = f"#!{sys.executable} -IS"
    lines[lines.index("FOLDERS = []")] = f"FOLDERS = {[str(ROOT), os.path.dirname(_cffi_backend.__file__)]!r}"
    path = tmp_path / "device-model"
    path.write_text("\n".join(lines))
    path.chmod(0o755)
    return str(path)


class Ran:
    """How the wrapper ended: its exit status, its own log, and what xl's user saw before libxl's own line."""

    def __init__(self, folder: Path, argv: list[str], offered: Handover | None, **variables: str) -> None:
        log = folder / "qemu.log"
        what = None if offered is None else (offered.data.decode(), offered.path, offered.device_model)
        (folder / "what").write_text(json.dumps([argv, str(log), what]))
        environment = {"PATH": os.environ["PATH"], "HOME": "/root"} | variables
        with (folder / "stderr").open("wb") as stderr:  # not to append: offsets count
            done = subprocess.run(
                [sys.executable, "-IS", "-c", LIBXL, str(ROOT), str(folder / "what")],
                env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=30,
            )  # fmt: skip
        self.environment = environment
        self.code, self.pid, self.log = done.returncode, int(done.stdout), log.read_text()
        seen = (folder / "stderr").read_text()
        self.seen = seen.removesuffix("libxl: error: it exited\n")
        assert seen != self.seen


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        (PLAIN, ARGV),
        (LEGACY, ["-S", "-nodefaults", "-machine", "none,accel=xen"]),  # the probe of Xen 4.20 and later
        (LEGACY, ["-help"]),
        (LEGACY, []),
        (b"# comment\n" * 110_000 + PLAIN, ARGV),  # over a megabyte
    ],
)
def test_the_device_model_is_started_as_libxl_would(
    tmp_path: Path, wrapper: str, config: bytes, arguments: list[str]
) -> None:
    qemu = recorder(tmp_path / "qemu", then="exit 7")
    ran = Ran(tmp_path, [wrapper, *arguments], Handover(config, "g.cfg", (), qemu.path))
    assert (ran.code, ran.log, ran.seen) == (7, "", "")
    record = qemu.read()
    assert record.argv == [qemu.path, *arguments]
    assert record.environment == ran.environment | {"XEN_DOMAIN_ID": "7"}
    assert record.pid == ran.pid
    assert (record.ignored, record.blocked) == (0, 0)
    assert record.fds == [0, 1, 2, 40]  # 40 is libxl's (-incoming fd:40)


def test_the_same_again_after_a_reboot(tmp_path: Path, wrapper: str) -> None:
    """xl's daemon keeps its environment and its descriptors."""
    qemu = recorder(tmp_path / "qemu")
    script = LIBXL.replace("if not os.fork():", "if not os.fork() or (os.wait() and not os.fork()):")
    what = tmp_path / "what"
    what.write_text(json.dumps([[wrapper, *ARGV], str(tmp_path / "log"), (PLAIN.decode(), "g.cfg", qemu.path)]))
    done = subprocess.run(
        [sys.executable, "-IS", "-c", script, str(ROOT), str(what)], env={}, capture_output=True, text=True
    )
    assert len(set(done.stdout.split())) == 2, done.stderr
    assert done.returncode == 0


def refused(ran: Ran, pattern: str, code: int = 1) -> None:
    """One line, the same in the log and before xl's user."""
    assert ran.code == code
    assert ran.log == ran.seen
    assert ran.log.startswith("xlplug: ")
    assert pattern in ran.log
    assert ran.log.count("\n") == 1
    assert ran.log.endswith("\n")


def test_a_missing_device_model(tmp_path: Path, wrapper: str) -> None:
    refused(
        Ran(tmp_path, [wrapper, *ARGV], Handover(PLAIN, "g.cfg", (), "/opt/none")),
        "the device model /opt/none is missing or not executable; install it",
    )


def test_a_device_model_whose_interpreter_is_missing(tmp_path: Path, wrapper: str) -> None:
    broken = tmp_path / "qemu"
    broken.write_text("#!/nowhere\n")
    broken.chmod(0o755)
    refused(
        Ran(tmp_path, [wrapper, *ARGV], Handover(PLAIN, "g.cfg", (), str(broken))),
        f"{broken}: No such file or directory; reinstall the device model [XLP612]",
        code=3,
    )


def test_without_xen(tmp_path: Path, wrapper: str) -> None:
    qemu = recorder(tmp_path / "qemu")
    refused(Ran(tmp_path, [wrapper, *ARGV], Handover(LEGACY, "g.cfg", (), qemu.path)), "xlplug: ")
    assert not qemu.ran


@pytest.mark.parametrize("arguments", [[], ["-help"], ARGV])
@pytest.mark.parametrize("chained", ["", "wrapper"])
def test_by_hand_or_chained_behind_itself(tmp_path: Path, wrapper: str, arguments: list[str], chained: str) -> None:
    """Then libxl's default is meant, which only Xen's own library tells."""
    offered = Handover(LEGACY, "g.cfg", (), wrapper) if chained else None
    refused(Ran(tmp_path, [wrapper, *arguments], offered), "this machine does not run on Xen")


def test_a_handover_by_hand(tmp_path: Path, wrapper: str) -> None:
    refused(
        Ran(tmp_path, [wrapper, *ARGV], None, **{VARIABLE: "0"}),
        f"{VARIABLE}=0 was not set by 'xlplug create'; start the domain with 'xl create'",
    )


def test_by_hand_it_is_said_once(tmp_path: Path, wrapper: str) -> None:
    done = subprocess.run(["sh", "-c", f"{wrapper} -help; true"], capture_output=True, text=True)
    assert done.stderr.count("xlplug:") == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>/dev/null"])
def test_a_stderr_that_takes_nothing(tmp_path: Path, wrapper: str, redirection: str) -> None:
    done = subprocess.run(["sh", "-c", f"{wrapper} -help 2>{tmp_path}/log; exit $?"], capture_output=True)
    assert done.returncode == 1
    script = f"exec {redirection}; {wrapper} -help 2>{tmp_path}/log; exit $?"
    assert subprocess.run(["sh", "-c", script]).returncode == 1
    assert (tmp_path / "log").read_text().count("\n") == 1


def test_a_reader_that_has_stopped_is_not_waited_for(tmp_path: Path, wrapper: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    start = time.monotonic()
    script = f"{wrapper} -help 2>{tmp_path}/log; exit $?"
    assert subprocess.run(["sh", "-c", script], stderr=writing, timeout=20).returncode == 1
    assert time.monotonic() - start < 10
    for fd in (reading, writing):
        os.close(fd)


def test_signals(tmp_path: Path) -> None:
    """TERM and HUP undo and end in one line; what was ignored on entry stays so, also in the device model."""
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from xlplug.hook import wrapper
def prepare(arguments, wrapper):
    print(flush=True)
    time.sleep(float(arguments[0]))
    return "/bin/true", None
wrapper._prepare = prepare
wrapper.main(["w", sys.argv[1]])
"""
    for number in (signal.SIGTERM, signal.SIGHUP):
        for trap, code in (("", 3), (f"trap '' {number.name[3:]}; ", 0)):
            process = subprocess.Popen(
                ["sh", "-c", f'{trap}exec "$@"', "sh", sys.executable, "-c", script, "5" if not trap else "0.3"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            _, error = process.communicate(timeout=10)
            assert process.returncode == code
            assert error == ("" if trap else "xlplug: interrupted; the grants disappear with the domain\n") or trap


def test_a_signal_at_the_end_of_a_grant_is_not_lost() -> None:
    """It does not undo what is done, but libxl, which has sent it, wants no device model any more."""
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from xlplug.execute.signals import Waiting
from xlplug.hook import wrapper
def prepare(arguments, wrapper):
    with Waiting():
        print(flush=True)
        time.sleep(0.3)
    return "/bin/true", None
wrapper._prepare = prepare
wrapper.main(["w"])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (3, "xlplug: interrupted; the grants disappear with the domain\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb\t c", "xlplug: a b c\n"), ("caf\udce9", "xlplug: caf\\udce9\n"), ("", "xlplug: \n")],
)
def test_one_line(text: str, expected: str) -> None:
    assert hook.one_line(text) == expected


# granting, with Xen in memory


class World:
    """Guest 7, and with ``stubdom`` its stubdomain 8, on a recorded laptop."""

    def __init__(self, snapshot: HostSnapshot, *, stubdom: bool = False, name: str = "g") -> None:
        self.xen, self.store = MemXen(), MemStore()
        self.xen.add_domain(DomainInfo(7, nr_pages=16384, max_pages=16640, uuid=UUID))
        self.store.write("/local/domain/7/name", name)
        if stubdom:
            self.xen.add_domain(DomainInfo(8, hvm=False, nr_pages=32768, max_pages=33024))
            self.store.write("/local/domain/8/name", f"{name}-dm")
            self.store.write("/local/domain/8/target", "7")
        self.snapshot = snapshot

    def serve(self, domid: int, config: bytes | None, arguments: list[str] = ARGV, wrapper: str = "") -> str | None:
        parsed = None
        if config is not None:
            parsed = hook.from_handover(Handover(config, "g.cfg"))
        return hook._serve(Domid(domid), arguments, wrapper, parsed, self.xen, self.store)  # type: ignore[arg-type]

    def held(self, domid: int) -> str:
        rights = self.xen.held()[domid]
        return f"{rights.memory} {rights.ports}"


@pytest.fixture
def world(host: Callable[[str], HostSnapshot], monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def make(**options: object) -> World:
        made = World(host("igd-laptop"), **options)  # type: ignore[arg-type]
        monkeypatch.setattr(snapshot, "take", lambda xen, store, config, *, stubdom: made.snapshot)
        return made

    return make


GUEST = "{ a0-bf, 7a18d-7a18f } { 3b0-3bb, 3c0-3df }"


def test_a_guest_is_granted(world: Callable[..., World]) -> None:
    made = world()
    made.serve(7, LEGACY)
    assert made.held(7) == GUEST


def test_a_stubdomain_and_its_guest_are_granted(world: Callable[..., World]) -> None:
    made = world(stubdom=True)
    made.serve(8, LEGACY + b'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n')
    assert made.held(7) == GUEST
    assert made.held(8) == "{ a0-cf, 7a18d-7a18f } { 3b0-3bb, 3c0-3df }"


def test_again_is_no_more(world: Callable[..., World]) -> None:
    made = world()
    made.serve(7, LEGACY)
    held, nodes = made.xen.held(), dict(made.store.nodes)
    made.serve(7, LEGACY)
    assert (made.xen.held(), made.store.nodes) == (held, nodes)


def test_what_needs_nothing_is_left_alone(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in libvirt: not even the host is looked at."""
    made = world()
    monkeypatch.setattr(snapshot, "take", None)
    monkeypatch.setattr(
        find_config, "libvirt_definition", lambda name, uuid: (b"<domain><name>g</name></domain>", "g.xml")
    )
    made.serve(7, None, ["-xen-domid", "7"])
    assert made.held(7) == "{ } { }"


def test_libvirts_domain_is_granted(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(stubdom=True)
    xml = b"""<domain><name>g</name><os><type>hvm</type></os><memory>65536</memory><devices><hostdev type='pci'>
        <source><address bus='0' slot='2' function='0'/></source></hostdev></devices></domain>"""
    monkeypatch.setattr(
        find_config, "libvirt_definition", lambda name, uuid: (xml, "g.xml") if (name, uuid) == ("g", UUID) else None
    )
    # libxl left the guest's device model's command line in xenstore: that of dom0's, for the stubdomain, does not tell.
    made.store.write("/local/domain/7/vm", f"/vm/{UUID}")
    for i, word in enumerate(("-machine", "xenfv,igd-passthru=on")):
        made.store.write(f"/vm/{UUID}/image/dm-argv/{i:03}", word)
    made.serve(8, None, ["-xen-domid", "8", "-machine", "xenpv"])
    assert made.held(7) == GUEST


def test_nobody_knows_the_config(world: Callable[..., World]) -> None:
    made = world(name="hook-nobody")
    with pytest.raises(ConfigError, match=r"domain 7 \(hook-nobody\): no configuration was passed on, .*xl create"):
        made.serve(7, None)
    assert made.held(7) == "{ } { }"


def test_a_handover_for_another_domain(world: Callable[..., World]) -> None:
    made = world(name="other")
    with pytest.raises(ConfigError, match=r"domain 7 \(other\): the config passed on is for domain 'g'; start it"):
        made.serve(7, LEGACY)
    assert made.held(7) == "{ } { }"


@pytest.mark.parametrize("name", ["g", "g--incoming"])
def test_a_domain_that_arrives_has_a_name_of_its_own(world: Callable[..., World], name: str) -> None:
    """Until it has all arrived; only then, and nobody else, may it bear another name."""
    made = world(name=name)
    made.serve(7, LEGACY, [*ARGV, "-incoming", "fd:3"])
    assert made.held(7) == GUEST
    for other, arguments in (("g--incoming", ARGV), ("other--incoming", [*ARGV, "-incoming", "fd:3"]), ("", ARGV)):
        with pytest.raises(ConfigError, match="the config passed on is for domain 'g'"):
            world(name=other).serve(7, LEGACY, arguments)


def test_a_renamed_domain(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """It reboots: the same xl makes it anew, with its new name."""
    made = world(name="renamed")
    hook._serve(Domid(7), ARGV, "", hook.from_handover(Handover(LEGACY, "g.cfg")), made.xen, made.store, lambda: True)  # type: ignore[arg-type]
    assert made.held(7) == GUEST


def test_no_such_domain(world: Callable[..., World]) -> None:
    made = world()
    made.store.write("/local/domain/9/name", "g")
    for config in (LEGACY, None):
        with pytest.raises(Refused, match="9 does not exist"):
            made.serve(9, config)


def test_dom0_by_hand(world: Callable[..., World]) -> None:
    made = world()
    made.store.write("/local/domain/0/name", "g")
    before = made.held(0)
    with pytest.raises(Refused, match="dom0"):
        made.serve(0, LEGACY)
    assert made.held(0) == before


@pytest.mark.parametrize("number", range(4))
def test_a_grant_that_fails_leaves_nothing(world: Callable[..., World], number: int) -> None:
    made = world()
    made.xen.fail_call(number, errno.ENOMEM)
    with pytest.raises(ApplyError, match="everything granted by this run is undone"):
        made.serve(7, LEGACY)
    # libxl grants the frame buffer too, so that stays, until libxl destroys the domain.
    assert made.held(7) == ("{ a0-bf } { }" if number else "{ } { }")
    assert not [path for path in made.store.nodes if "xlplug" in path]


RAM = b'name="g"\ntype="hvm"\nmemory=64\nvga="stdvga"\nxlplug_preload=1\n'


def test_what_fails_after_the_grants_is_not_a_refusal(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1 would say that nothing was touched."""
    made = world()

    def fail(*_: object) -> None:
        raise StoreError("xenstore: cannot write /libxl/7/xlplug-devices/uuid: EIO")

    monkeypatch.setattr(record, "note_device_model", fail)
    with pytest.raises(ApplyError, match=r"^xenstore: cannot write") as raised:
        made.serve(7, LEGACY)
    assert (raised.value.exit_code, raised.value.code) == (3, "XLP110")
    assert made.held(7) == GUEST, "which goes with the domain, as libxl destroys it now"


@pytest.mark.parametrize(("stubdom", "dm"), [(False, 0), (True, 8)])
def test_ram_is_populated_before_the_device_model_starts(
    world: Callable[..., World], tmp_path: Path, stubdom: bool, dm: int
) -> None:
    made = world(stubdom=stubdom)
    library = tmp_path / PRELOAD
    if not stubdom:
        library.touch()
    text = b'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n' if stubdom else b""
    made.xen.set_max_mem(7, 4 * (16384 + 5000))
    for _ in range(2):
        preloaded = made.serve(8 if stubdom else 7, RAM + text, wrapper=f"{tmp_path}/device-model")
        assert preloaded == (None if stubdom else str(library))
        assert made.store.read(f"/local/domain/{dm}/xlplug/7/populated") == "3000-400f"
        info = made.xen.domain_info(7)
        assert info is not None
        assert info.nr_pages == 16384 + 4096 + 16


def test_without_the_library_nothing_is_populated(world: Callable[..., World], tmp_path: Path) -> None:
    made = world()
    assert made.serve(7, RAM, wrapper=f"{tmp_path}/device-model") is None
    assert made.xen.calls == 0
    assert not any("populated" in node for node in made.store.nodes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "{0}"), ("", "{0}"), ("libm.so.6", "libm.so.6:{0}")],
    ids=["alone", "empty", "behind"],
)
def test_the_library_is_preloaded_into_the_device_model_only(
    tmp_path: Path, wrapper: str, given: str | None, expected: str
) -> None:
    """``wants_legacy`` is what costs a look at Xen; here the look is replaced, and all the rest is real."""
    library = tmp_path / PRELOAD
    library.write_bytes(b"")
    qemu = recorder(tmp_path / "qemu")
    text = Path(wrapper).read_text().replace(
        "main(sys.argv)",
        "from xlplug.hook import wrapper\n"
        "from xlplug.hook.device_model import preload_library\n"
        f"wrapper._prepare = lambda words, me: ({qemu.path!r}, preload_library(me))\nmain(sys.argv)",
    )  # fmt: skip
    Path(wrapper).write_text(text)
    variables = {} if given is None else {"LD_PRELOAD": given}
    ran = Ran(tmp_path, [wrapper, *ARGV], None, **variables)
    assert ran.code == 0
    assert qemu.read().environment["LD_PRELOAD"] == expected.format(library)


@pytest.mark.parametrize("stubdom", [False, True])
def test_a_restored_guest_is_not_populated(world: Callable[..., World], stubdom: bool) -> None:
    made = world(stubdom=stubdom)
    if stubdom:
        made.store.write("/local/domain/7/vm", f"/vm/{UUID}")
        for i, word in enumerate(("-incoming", "fd:3")):
            made.store.write(f"/vm/{UUID}/image/dm-argv/{i:03}", word)
        text = b'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'
        made.serve(8, RAM + text, ["-xen-domid", "8", "-machine", "xenpv"])
    else:
        made.serve(7, RAM, [*ARGV, "-incoming", "fd:3"])
    assert made.xen.calls == 0
    assert not any("populated" in node for node in made.store.nodes)


def test_a_stubdomain_that_has_run_has_populated_by_itself(world: Callable[..., World]) -> None:
    made = world(stubdom=True)
    made.xen.add_domain(DomainInfo(8, hvm=False, cpu_time=1))
    made.serve(8, RAM + b'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n')
    assert made.xen.calls == 0
