# SPDX-License-Identifier: LGPL-2.1-only
"""The preload library, compiled, before a libxenctrl, a libxenstore and a QEMU of our own that say what happens."""

import errno
import os
import random
import shutil
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.abi.oracle import require

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SOURCE = ROOT / "hooks" / "preload" / "preload.c"
STRICT = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]
DOMID = 7
MARK = 123  # what errno is before each call of the QEMU
PASSED = "passed on"


class Built(NamedTuple):
    """The library; a QEMU to preload it into; the same QEMU with the library in it, under the sanitizers."""

    library: Path
    qemu: Path
    sanitized: Path


def run(*argv: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return done  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    if shutil.which("gcc") is None or shutil.which("make") is None:
        require("abi", "gcc and make are not installed")
    folder = tmp_path_factory.mktemp("preload")
    library, xen = folder / "libxlplug-preload.so", folder / "libfakexen.so"
    run("make", "-s", "-C", ROOT, "preload", f"PRELOAD={library}", "CC=gcc", "CFLAGS=-O2 -Werror")
    # Xen's libraries give their symbols versions, and those of a program that was linked to them have them too.
    (folder / "versions").write_text("VERS_4.17.0 { global: *; };\n")
    run(
        "gcc", *STRICT, "-shared", "-fPIC", f"-Wl,--version-script={folder}/versions", "-o", xen, HERE / "preload_xen.c"
    )
    link = [xen, f"-Wl,-rpath,{folder}", "-Wl,-z,now", "-lpthread", "-ldl"]
    run("gcc", *STRICT, "-o", folder / "qemu", HERE / "preload_qemu.c", *link)
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-rdynamic"]
    run("gcc", *STRICT, *sanitize, "-o", folder / "sanitized", HERE / "preload_qemu.c", SOURCE, *link)
    return Built(library, folder / "qemu", folder / "sanitized")


class Machine:
    """Runs the QEMU; ``published`` is the guest's part of the fake xenstore."""

    def __init__(self, built: Built, folder: Path) -> None:
        self.built = built
        self.store = folder / "store"
        self.published = self.store / "xlplug" / str(DOMID)
        self.published.mkdir(parents=True)
        self.environment = {"FAKE_STORE": str(self.store)}

    def publish(self, what: str, text: str) -> None:
        (self.published / what).write_text(text, "latin-1")

    def run(self, *lines: str, sanitized: bool = False, **variables: str) -> list[str]:
        """What was said, without the last line, which tells of handles left open."""
        preload = {} if sanitized else {"LD_PRELOAD": str(self.built.library)}
        done = run(
            self.built.sanitized if sanitized else self.built.qemu,
            input="".join(f"{line}\n" for line in lines),
            env=self.environment | preload | variables,
            timeout=60,
        )
        assert done.stderr == "" or "XLPLUG_PRELOAD_TRACE" in variables
        *said, last = done.stdout.splitlines()
        assert last == "0 handles"
        return said + done.stderr.splitlines()

    def ask(self, *requests: str, **variables: str) -> list[str]:
        """For each request "0" where no call was made, or `PASSED`; both with errno as the caller left it."""
        answers, passed = [], False
        for line in self.run(*requests, **variables):
            assert line.endswith(f" {MARK}"), "errno, before the real call and after ours"
            if line.startswith("real "):
                passed = True
            else:
                assert line == f"0 {MARK}"
                answers.append(PASSED if passed else "0")
                passed = False
        assert len(answers) == len(requests)
        return answers


@pytest.fixture
def machine(built: Built, tmp_path: Path) -> Machine:
    return Machine(built, tmp_path)


def populate(*gfns: int, order: int = 0, flags: int = 0, domid: int = DOMID) -> str:
    return f"populate {domid:x} {order:x} {flags:x} {' '.join(f'{gfn:x}' for gfn in gfns)}"


def pages(first: int, nr: int) -> str:
    return populate(*range(first, first + nr))


def test_only_two_functions_are_interposed(built: Built) -> None:
    said = run("nm", "-D", "--defined-only", built.library).stdout.split()
    assert said[2::3] == ["xc_domain_iomem_permission", "xc_domain_populate_physmap_exact"]
    needed = run("readelf", "-d", built.library).stdout.count("(NEEDED)")
    assert needed == 1, "the C library alone"


def test_what_was_published_is_not_called(machine: Machine) -> None:
    machine.publish("populated", "3000-400f,4040-407f")
    assert machine.ask(pages(0x3000, 0x1000), pages(0x4000, 16), pages(0x4040, 64)) == ["0"] * 3


@pytest.mark.parametrize(
    ("text", "request_", "answer"),
    [
        ("3000-3fff", pages(0x3000, 1), "0"),
        ("3000-3fff", pages(0x3FFF, 1), "0"),
        ("3000-3fff", pages(0x2FFF, 1), PASSED),
        ("3000-3fff", pages(0x4000, 1), PASSED),
        ("3000-3fff", pages(0x2FFF, 2), PASSED),
        ("3000-3fff", pages(0x3FFF, 2), PASSED),  # one more than was published: all of it is QEMU's
        ("3000-3000", pages(0x3000, 1), "0"),
        ("3000-30ff,3100-31ff", pages(0x3000, 0x200), "0"),
        ("3100-31ff,3000-30ff", pages(0x3000, 0x200), "0"),
        ("3000-31ff,3080-30ff", pages(0x3000, 0x200), "0"),
        ("3000-30ff,3101-31ff", pages(0x3000, 0x200), PASSED),
        ("3000-30ff", populate(0x3005, 0x3003, 0x3004, 0x30FF), "0"),
        ("3000-30ff", populate(0x3005, 0x3005), PASSED),  # the second time in one call
        ("3000-30ff", populate(0x3005, 0x4005), PASSED),
        ("200-5ff", populate(0x200, 0x400, order=9), "0"),
        ("200-5fe", populate(0x200, 0x400, order=9), PASSED),
        ("200-5ff", populate(0x200, 0x3FF, order=9), PASSED),  # they overlap
        ("0-ffffffffffffffff", populate(0x5, order=18), "0"),
        ("0-ffffffffffffffff", populate(0x5, order=19), PASSED),
        ("0-ffffffffffffffff", populate(0x5, order=64), PASSED),
        ("0-ffffffffffffffff", populate(0x5, order=0xFFFFFFFF), PASSED),
        ("0-ffffffffffffffff", populate(0xFFFFFFFFFFFFFFFF), "0"),
        ("0-ffffffffffffffff", populate(0xFFFFFFFFFFFFFFFF, 0), "0"),
        ("0-ffffffffffffffff", populate(0xFFFFFFFFFFFFFFFF, order=1), PASSED),
        ("0-ffffffffffffffff", populate(0xFFFFFFFFFFFFFFFE, 0, order=1), "0"),
        ("3000-3fff", populate(0x3000, flags=1), PASSED),
        ("3000-3fff", populate(), PASSED),
        ("3000-3fff", "populate 7 0 0 -", PASSED),
        ("3000-3fff", populate(0x3000, domid=8), PASSED),
        ("3000-3fff", populate(0x3000, domid=0x10007), PASSED),
    ],
)
def test_every_page_or_none(machine: Machine, text: str, request_: str, answer: str) -> None:
    machine.publish("populated", text)
    for sanitized in (False, True):
        said = machine.run(request_, sanitized=sanitized)
        assert [line.startswith("real ") for line in said] == ([False] if answer == "0" else [True, False])
        assert said[-1] == f"0 {MARK}"


@pytest.mark.parametrize(
    "text",
    ["", "3000", "3000-", "-3fff", "3000-3fff,", ",3000-3fff", "3000-3fff\n", " 3000-3fff", "3000-3fff,3000", "3000-2fff",
     "0x3000-0x3fff", "3000-3FFF", "3000-3fff;", "3000-3fff,,4000-4fff", "3000-3fff\0", "3000--3fff", "3000-10000000000000000",
     "3000-fffffffffffffffff", "3000-3fff,5-4", "g-h", "\xe9-\xff", "3000-3fff," * 500 + "x"],
)  # fmt: skip
def test_a_text_that_is_not_as_it_should_be_tells_nothing(machine: Machine, text: str) -> None:
    machine.publish("populated", text)
    machine.publish("iomem", text)
    for sanitized in (False, True):
        said = machine.run(pages(0x3000, 1), "iomem 7 3000 1 1", sanitized=sanitized)
        assert [line.split()[0] for line in said] == ["real", "0", "real", "0"]


def test_as_many_ranges_as_a_node_can_hold(machine: Machine) -> None:
    text = ",".join(["0-0"] * 1023 + ["5-5"])
    assert len(text) == 4095  # of 4096
    machine.publish("populated", text)
    assert [machine.run(pages(5, 1), sanitized=s) for s in (False, True)] == [[f"0 {MARK}"]] * 2
    machine.publish("populated", text + ",6-6" * 10)  # more than xenstore holds
    assert machine.ask(pages(6, 1)) == [PASSED]


def test_nothing_is_published(machine: Machine) -> None:
    assert machine.ask(pages(0x3000, 2), "iomem 7 a0 20 1") == [PASSED] * 2
    del machine.environment["FAKE_STORE"]  # nor does xenstored answer
    assert machine.ask(pages(0x3000, 2), "iomem 7 a0 20 1") == [PASSED] * 2


def test_a_page_counts_once(machine: Machine) -> None:
    machine.publish("populated", "3000-3fff")
    asked = [
        pages(0x3000, 0x10),
        pages(0x3000, 0x10),
        pages(0x3010, 1),
        pages(0x300F, 1),
        pages(0x3010, 2),
        pages(0x3011, 1),
    ]
    assert machine.ask(*asked) == ["0", PASSED, "0", PASSED, PASSED, PASSED]
    again = [pages(0x2FFF, 2), pages(0x3000, 1), pages(0x3001, 1)]  # what was passed on is QEMU's own from then on
    assert machine.ask(*again) == [PASSED, PASSED, "0"]


def test_each_guest_has_its_own(machine: Machine) -> None:
    machine.publish("populated", "3000-3fff")
    other = machine.store / "xlplug" / "8"
    other.mkdir()
    (other / "populated").write_text("3000-3000")
    assert machine.ask(*(populate(0x3000, domid=domid) for domid in (7, 8, 7, 8, 9))) == [
        "0",
        "0",
        PASSED,
        PASSED,
        PASSED,
    ]


def test_it_is_read_at_each_call(machine: Machine) -> None:
    """The node appears, changes and goes while QEMU runs."""
    process = subprocess.Popen(
        [machine.built.qemu],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=machine.environment | {"LD_PRELOAD": str(machine.built.library), "FAKE_QUIET": "1", "FAKE_ERRNO": "1"},
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(30, process.kill)
        timer.start()
        answers = []
        # The fake prints through a buffer, so that all is seen at the end; it reads a line when it is there.
        for text, page in ((None, 1), ("2-3", 2), ("3-5", 3), ("5-5", 4), (None, 5)):
            node = machine.published / "populated"
            node.unlink(missing_ok=True)
            if text is not None:
                node.write_text(text)
            process.stdin.write(f"{pages(page, 1)}\n")
            process.stdin.flush()
            wait_until_read(process)
        answers = process.communicate()[0].splitlines()
        timer.cancel()
    assert answers == ["-1 1", f"0 {MARK}", f"0 {MARK}", "-1 1", "-1 1", "0 handles"]


def wait_until_read(process: "subprocess.Popen[str]") -> None:
    """Until it sleeps in a read of its standard input again, with nothing left in the pipe."""
    import fcntl
    import struct
    import termios
    import time

    assert process.stdin is not None
    for _ in range(3000):
        left = struct.unpack("i", fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, b"\0" * 4))[0]
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]
        if not left and state == "S":
            return
        time.sleep(0.01)
    raise AssertionError("it does not read")


def test_the_real_call_is_as_it_was_made(machine: Machine) -> None:
    """Arguments, result and errno, of both; the caller's errno is what the real one finds."""
    machine.publish("populated", "3000-3000")
    number = str(errno.EBUSY)
    assert machine.run(populate(0x4000, 0x3000, 0x10, order=3, flags=0x81), "iomem 7 7a18d 3 1", FAKE_ERRNO=number) == [
        f"real populate 0xabc 7 3 3 129 4000 3000 10 {MARK}",
        f"-1 {errno.EBUSY}",
        f"real iomem 0xabc 7 7a18d 3 1 {MARK}",
        f"-1 {errno.EBUSY}",
    ]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("iomem 7 7a18d 3 1", "0"),
        ("iomem 7 7a18d 3 2", "0"),
        ("iomem 7 a0 30 1", "0"),
        ("iomem 7 a0 31 1", PASSED),
        ("iomem 7 9f 2 1", PASSED),
        ("iomem 7 7a18d 3 0", PASSED),  # a revoke
        ("iomem 7 7a18d 0 1", PASSED),
        ("iomem 7 ffffffffffffffff 2 1", PASSED),
        ("iomem 8 7a18d 3 1", PASSED),
    ],
)
def test_iomem(machine: Machine, request_: str, answer: str) -> None:
    machine.publish("iomem", "a0-bf,c0-cf,7a18d-7a18f")
    assert machine.ask(request_, request_) == [answer] * 2, "a permission may be asked for again"


def test_one_is_not_taken_for_the_other(machine: Machine) -> None:
    machine.publish("iomem", "a0-bf")
    assert machine.ask(pages(0xA0, 1)) == [PASSED]
    (machine.published / "iomem").rename(machine.published / "populated")
    assert machine.ask("iomem 7 a0 1 1") == [PASSED]


@pytest.mark.parametrize("sanitized", [False, True])
def test_threads(machine: Machine, sanitized: bool) -> None:
    """However they meet, each page is answered once, and seven of eight threads make the call."""
    machine.publish("populated", "1000-1fff")
    assert machine.run("race 7 1000 64", sanitized=sanitized, FAKE_QUIET="1") == [str(7 * 100)]


def test_more_runs_than_are_noted_are_passed_on(machine: Machine) -> None:
    machine.publish("populated", "0-ffff")
    answers = machine.ask(*(pages(2 * i, 1) for i in range(300)), pages(0, 1))
    assert answers == ["0"] * 256 + [PASSED] * 45


@pytest.mark.parametrize("seed", range(20))
def test_against_a_model(machine: Machine, seed: int) -> None:
    """The rule again, with sets."""
    rng = random.Random(seed)
    ranges = [(first, first + rng.randrange(12)) for first in (rng.randrange(100) for _ in range(rng.randrange(1, 9)))]
    machine.publish("populated", ",".join(f"{first:x}-{last:x}" for first, last in ranges))
    told = {gfn for first, last in ranges for gfn in range(first, last + 1)}
    asked: set[int] = set()
    requests, expected = [], []
    for _ in range(30):
        order = rng.choice((0, 0, 1, 2))
        start, nr = rng.randrange(110), rng.randrange(1, 5)
        gfns = [start + (i << order) for i in range(nr)] if rng.random() < 0.7 else rng.choices(range(110), k=nr)
        every = [gfn + i for gfn in gfns for i in range(1 << order)]
        requests.append(populate(*gfns, order=order))
        fresh = len(set(every)) == len(every) and not asked & set(every)
        expected.append("0" if fresh and set(every) <= told else PASSED)
        asked |= set(every)
    assert machine.ask(*requests) == expected
    assert [line[:4] for line in machine.run(*requests, sanitized=True)] == [
        word for answer in expected for word in (("real", f"0 {MARK}"[:4]) if answer == PASSED else (f"0 {MARK}"[:4],))
    ]


def test_trace(machine: Machine) -> None:
    machine.publish("populated", "3000-3fff")
    said = machine.run(pages(0x3000, 2), pages(0x4000, 1), "iomem 7 a0 20 0", XLPLUG_PRELOAD_TRACE="1")
    assert [line for line in said if line.startswith("xlplug-preload")] == [
        "xlplug-preload: populate domid=7 first=0x3000 nr=0x2 order=0: done before",
        "xlplug-preload: populate domid=7 first=0x4000 nr=0x1 order=0: passed on",
        "xlplug-preload: no iomem domid=7 first=0xa0 nr=0x20 order=0: passed on",
    ]


# who else gets it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [("{}", "(none)"), ("{} {}", "(none)"), ("{}:/nowhere/libxlplug-preload.so", "(none)"), (" :{}: ", "(none)"),
     ("{}:{libc}", "{libc}"), ("{libc}:{}", "{libc}"), ("{libc} {} {m}", "{libc}:{m}"),
     ("{}:/nowhere/not-libxlplug-preload.so", "/nowhere/not-libxlplug-preload.so")],
)  # fmt: skip
def test_the_device_model_s_children_do_not_inherit_it(machine: Machine, before: str, after: str) -> None:
    names = {"libc": "libc.so.6", "m": "libm.so.6"}
    value = before.format(machine.built.library, *[machine.built.library] * 2, **names)
    done = subprocess.run(
        [machine.built.qemu], input="preload\n", capture_output=True, text=True, env={"LD_PRELOAD": value}
    )
    assert done.stdout.splitlines()[0] == f"LD_PRELOAD={after.format(**names)}"


def test_a_script_before_the_device_model_hands_it_on(machine: Machine, tmp_path: Path) -> None:
    script = tmp_path / "device-model"
    script.write_text(f'#!/bin/sh\necho "$LD_PRELOAD"; true | /bin/cat; exec {machine.built.qemu} "$@"\n')
    script.chmod(0o755)
    machine.publish("populated", "1-1")
    done = run(
        script,
        input=f"{pages(1, 1)}\npreload\n",
        env=machine.environment | {"LD_PRELOAD": str(machine.built.library), "PATH": os.defpath},
    )
    assert done.stdout.splitlines() == [str(machine.built.library), f"0 {MARK}", "LD_PRELOAD=(none)", "0 handles"]
    assert done.stderr == ""


def test_in_a_process_without_xen_it_does_nothing(built: Built) -> None:
    done = run("/bin/sh", "-c", 'echo "$LD_PRELOAD"', env={"LD_PRELOAD": str(built.library)})
    assert (done.stdout, done.stderr) == (f"{built.library}\n", "")
