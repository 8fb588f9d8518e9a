# SPDX-License-Identifier: LGPL-2.1-only
"""The files of hooks/ themselves: the front end in the shells that may be /bin/sh, the wrapper, the unit."""

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes import Recorder, recorder

HOOKS = Path(__file__).parents[3] / "hooks"
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]

# tools/xl/xl_cmdtable.c, 4.14 to 4.23: whatever begins as create, restore and migrate-receive do, and some more.
OTHERS = """
    cd-insert cd-eject channel-list claims config-update console cpupool-create debug-keys destroy dmesg domid
    reboot remus rename resume list info save migrate migrate-x migrate-receiver pci-attach shutdown top uptime vm-list help
    c res re r e m migrat
""".split()
ODD = ["", " ", "a b", "*", "$HOME", "`id`", "'", '"', "\\", "a\nb", "-", "--", "é", "\udcff", "create"]

#: What makes the front end ask Python, and what does not.
NEEDY, PLAIN = 'gfx_passthru="igd"', "memory=64"


class Hooked:
    """The front end before an xl, and an xlplug that records; a shell to run it with."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.front = folder / "front"
        self.bin = folder / "bin"
        for each in (self.front, self.bin):
            each.mkdir(parents=True)
        (self.front / "xl").write_bytes((HOOKS / "xl").read_bytes())
        (self.front / "xl").chmod(0o755)
        self.real = recorder(self.bin / "xl", then="exit ${CODE:-0}")
        self.xlplug = recorder(self.bin / "xlplug", then="exit ${CODE:-0}")
        self.path = f"{self.front}:{self.bin}:/usr/bin:/bin"
        self.shell = [str(shutil.which(shell)), *(["sh"] if shell == "busybox" else [])]

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": self.path, "KEEP": "a b", "LC_ALL": "C"} | variables
        return subprocess.run(
            [*self.shell, str(self.front / "xl"), *words], env=environment, capture_output=True, text=True, cwd=self.bin,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.fixture(params=SHELLS)
def hooked(request: pytest.FixtureRequest, tmp_path: Path) -> Hooked:
    return Hooked(tmp_path, request.param)


@pytest.fixture(scope="module", params=SHELLS)
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hooked:
    """With all that a command line may name."""
    made = Hooked(tmp_path_factory.mktemp("house"), request.param)
    (made.bin / "g.cfg").write_text(f'name="g"\n{PLAIN}\n')
    (made.bin / "a b*.cfg").write_text("# a comment without its end")
    (made.bin / "needy.cfg").write_text(f"{PLAIN}\n{NEEDY}\n")
    (made.bin / "odd.cfg").write_text("x='\\7 1'\n")
    os.mkfifo(made.bin / "fifo")
    return made


@pytest.fixture
def shared(house: Hooked) -> Hooked:
    """For tests that change nothing in it; nothing has been run yet."""
    for program in (house.real, house.xlplug):
        program.forget()
    return house


def went(done: subprocess.CompletedProcess[str], to: Recorder, code: int = 0) -> list[str]:
    """The words that the program was started with; it alone, and its status is all there is."""
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    return to.read().argv[1:]


@pytest.mark.parametrize("word", OTHERS)
def test_everything_else_is_xls(shared: Hooked, word: str) -> None:
    words = ["-v", word, *ODD]
    assert went(shared.run(*words, CODE="77"), shared.real, 77) == words
    assert not shared.xlplug.ran


@pytest.mark.parametrize(
    "words", [[], ["-v"], ["-h"], [""], ["-N", "create", "g.cfg"], ["-vN", "create"], ["x", "create"]]
)
def test_so_is_what_names_nothing_or_is_no_creation(shared: Hooked, words: list[str]) -> None:
    assert went(shared.run(*words), shared.real) == words
    assert not shared.xlplug.ran


@pytest.mark.parametrize(
    ("word", "verb"),
    [*((word, "create") for word in ("cr", "cre", "crea", "creat", "create")),
     *((word, "restore") for word in ("rest", "resto", "restor", "restore")),
     *(("migrate-receive"[:length], "migrate-receive") for length in range(8, 16))],
)  # fmt: skip
@pytest.mark.parametrize("options", [[], ["-vvv", "-t", "-T", "-f"]])
def test_creations_go_through_xlplug(shared: Hooked, word: str, verb: str, options: list[str]) -> None:
    words = ["-p", "g.cfg", *ODD]
    assert went(shared.run(*options, word, *words, CODE="77"), shared.xlplug, 77) == [verb, *words]
    assert not shared.real.ran
    environment = shared.xlplug.read().environment
    assert environment["XLPLUG_XL"] == shared.real.path
    assert environment["XLPLUG_XL_OPTIONS"].split() == options
    assert environment["XLPLUG_DEVICE_MODEL"] == "/usr/lib/xlplug/device-model"


@pytest.mark.parametrize(
    "words",
    [["g.cfg"], ["-p", "g.cfg"], ["-pcFq", "g.cfg", "memory=64", 'name="a b"'], ["g.cfg", "-c", "-V"], ["-f", "g.cfg"],
     ["other.cfg", "-f", "g.cfg"], ["--defconfig", "g.cfg"], ["--defconfig=g.cfg", "-n"], ["-e", "x=1", "g.cfg"], ["./g.cfg"],
     ["a b*.cfg"]],
)  # fmt: skip
@pytest.mark.parametrize(("options", "word"), [([], "create"), (["-v", "-t"], "cr")])
def test_a_creation_that_needs_nothing_is_xls_at_once(
    shared: Hooked, words: list[str], options: list[str], word: str
) -> None:
    words = [*options, word, *words]
    handover = {"XLPLUG_HANDOVER": "64", "XLPLUG_XL": "x"}  # another domain's: a script of its own creates this one
    assert went(shared.run(*words, CODE="77", **handover), shared.real, 77) == words
    assert not [name for name in shared.real.read().environment if name.startswith("XLPLUG_")]
    assert not shared.xlplug.ran


@pytest.mark.parametrize(
    "words",
    [[], [""], ["-"], ["-p"], ["none.cfg"], ["."], ["/dev/null"], ["/dev/stdin"], ["fifo"], ["g.cfg", "g.cfg"], ["g.cfg", ""],
     ["-h"], ["--help"], ["-fg.cfg"], ["-pf", "g.cfg"], ["--defc", "g.cfg"], ["--", "g.cfg"], ["--quiet", "g.cfg"], ["-x", "g.cfg"],
     ["-f"], ["-f", "-p"], ["g.cfg", "x=1", "-p"], ["x=1"], ["g.cfg", NEEDY], ["g.cfg", "a=1\nioports=[]"], ["g.cfg", "x='\\\\'"],
     ["needy.cfg"], ["odd.cfg"], ["g.cfg", "-f", "needy.cfg"]],
)  # fmt: skip
def test_what_is_odd_or_may_need_something_is_for_python(shared: Hooked, words: list[str]) -> None:
    assert went(shared.run("create", *words), shared.xlplug) == ["create", *words]
    assert not shared.real.ran


@pytest.mark.parametrize("word", ["restore", "migrate-receive"])
def test_what_arrives_is_for_python(shared: Hooked, word: str) -> None:
    assert went(shared.run(word, "g.cfg"), shared.xlplug) == [word, "g.cfg"]


def test_without_grep_python_judges(hooked: Hooked, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "cat").symlink_to(str(shutil.which("cat")))  # what the recorder needs
    (hooked.bin / "g.cfg").write_text(PLAIN)
    done = hooked.run("create", "g.cfg", PATH=f"{hooked.front}:{hooked.bin}:{tools}")
    has_its_own = "busybox" in hooked.shell[0]  # then nothing is missing
    assert went(done, hooked.real if has_its_own else hooked.xlplug) == ["create", "g.cfg"]


@pytest.mark.parametrize("word", ["list", "create"])
def test_environment_signals_and_descriptors_are_kept(hooked: Hooked, word: str) -> None:
    assert hooked.run(word).returncode == 0
    record = (hooked.xlplug if word == "create" else hooked.real).read()
    shells_own = {"PWD", "OLDPWD", "SHLVL", "_"}
    kept = {name: v for name, v in record.environment.items() if name not in shells_own and "XLPLUG" not in name}
    assert kept == {"PATH": hooked.path, "KEEP": "a b", "LC_ALL": "C"}
    assert (record.ignored, record.blocked, record.fds) == (0, 0, [0, 1, 2])


def test_the_first_real_xl_in_path(hooked: Hooked, tmp_path: Path) -> None:
    """Past a second front end, what is no program, what cannot be read, and folders that are not there."""
    second = tmp_path / "second"
    shutil.copytree(hooked.front, second)
    text = (second / "xl").read_text().replace("/usr/lib/xlplug/device-model", "'/opt/x'")  # another installation's
    (second / "xl").write_text(text)
    (second / "xl").chmod(0o755)
    for name in ("plain", "folder", "dangling"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain" / "xl").write_text("")
    (tmp_path / "folder" / "xl").mkdir()
    (tmp_path / "dangling" / "xl").symlink_to("nowhere")
    hooked.path = ":".join(
        str(tmp_path / name) for name in ("front", "second", "none", "plain", "folder", "dangling", "b*n", "bin")
    )
    assert went(hooked.run("list", PATH=f"{hooked.path}:/usr/bin"), hooked.real) == ["list"]
    assert hooked.real.path.endswith("/bin/xl")


def test_three_front_ends_and_no_xl_come_to_an_end(hooked: Hooked, tmp_path: Path) -> None:
    """Each looks behind itself, so they do not call each other in a circle."""
    Path(hooked.real.path).unlink()
    for name in ("second", "third"):
        shutil.copytree(hooked.front, tmp_path / name)
    for order in (("front", "second", "third"), ("second", "third", "front"), ("third", "front", "second")):
        done = hooked.run("list", PATH=":".join([*(str(tmp_path / name) for name in order), "/usr/bin"]))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "xlplug: no xl in PATH; install it (Debian: xen-system-amd64), or correct PATH [XLP601]\n"


def test_an_xl_in_the_current_folder(hooked: Hooked) -> None:
    """An empty part of PATH is the current folder."""
    done = hooked.run("list", PATH=f"{hooked.front}::/usr/bin")
    assert done.returncode == 0
    assert hooked.real.ran


@pytest.mark.parametrize("kind", ["elf", "one line", "empty", "unreadable"])
def test_an_xl_that_is_no_script(hooked: Hooked, kind: str) -> None:
    path = Path(hooked.real.path)
    if kind == "elf":
        shutil.copyfile("/usr/bin/true", path)
    else:
        path.write_text("#!/bin/true" if kind == "one line" else "")
    path.chmod(0o111 if kind == "unreadable" else 0o755)
    done = hooked.run("list")
    assert done.stdout == ""
    assert done.returncode in ((0,) if kind in ("elf", "one line") else (0, 126))
    assert "xlplug:" not in done.stderr


@pytest.mark.parametrize("word", ["list", "create"])
def test_no_xl(hooked: Hooked, word: str) -> None:
    Path(hooked.real.path).unlink()
    for path in (hooked.path, str(hooked.front), "/nowhere", ""):
        done = hooked.run(word, PATH=path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "xlplug: no xl in PATH; install it (Debian: xen-system-amd64), or correct PATH [XLP601]\n"
    assert not hooked.xlplug.ran


def test_no_xlplug(hooked: Hooked) -> None:
    """The front end outlived the package: creations stop, with a word on how to go on; the rest is xl's as ever."""
    Path(hooked.xlplug.path).unlink()
    done = hooked.run("create", "g.cfg", PATH=f"{hooked.front}:{hooked.bin}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"xlplug: xlplug is missing; install it again, or run {hooked.real.path} itself [XLP608]\n"
    assert not hooked.real.ran
    assert went(hooked.run("list"), hooked.real) == ["list"]


def test_what_the_installer_replaces_is_there() -> None:
    text = (HOOKS / "xl").read_text()
    assert text.count("\nxlplug=xlplug\n") == 1
    assert text.count("\nwrapper=/usr/lib/xlplug/device-model\n") == 1
    for name in ("device-model", "xlplug"):
        lines = (HOOKS / name).read_text().splitlines()
        assert lines[0] == "#!/usr/bin/python3 -IS"
        assert lines.count("FOLDERS = []") == 1


@pytest.mark.parametrize("name", ["xl", "device-model", "xlplug"])
def test_hooks_can_be_run_and_are_known(name: str) -> None:
    assert os.access(HOOKS / name, os.X_OK)
    assert (HOOKS / name).read_text().splitlines()[1].startswith("# xlplug: ")


def test_the_unit_is_one() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(HOOKS / "xlplug-watch.service")
    assert unit.sections() == ["Unit", "Service", "Install"]
    # The guard lets go by itself, if it lives: "mixed" would kill it as soon as the daemon is dead.
    assert unit["Service"]["KillMode"] == "process"
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["Restart"] == "always"
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "--man=no", "verify", HOOKS / "xlplug-watch.service"], capture_output=True, text=True
        )
        complaints = [line for line in done.stderr.splitlines() if "xlplug-watch.service" in line]
        assert [line for line in complaints if "is not executable" not in line and "xlplug(1)" not in line] == []
