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
            [*self.shell, str(self.front / "xl"), *words], env=environment, capture_output=True, text=True, cwd=self.bin
        )


@pytest.fixture(params=SHELLS)
def hooked(request: pytest.FixtureRequest, tmp_path: Path) -> Hooked:
    return Hooked(tmp_path, request.param)


def went(done: subprocess.CompletedProcess[str], to: Recorder, code: int = 0) -> list[str]:
    """The words that the program was started with; it alone, and its status is all there is."""
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    return to.read().argv[1:]


@pytest.mark.parametrize("word", OTHERS)
def test_everything_else_is_xls(hooked: Hooked, word: str) -> None:
    words = ["-v", word, *ODD]
    assert went(hooked.run(*words, CODE="77"), hooked.real, 77) == words
    assert not hooked.xlplug.ran


@pytest.mark.parametrize(
    "words", [[], ["-v"], ["-h"], [""], ["-N", "create", "g.cfg"], ["-vN", "create"], ["x", "create"]]
)
def test_so_is_what_names_nothing_or_is_no_creation(hooked: Hooked, words: list[str]) -> None:
    assert went(hooked.run(*words), hooked.real) == words
    assert not hooked.xlplug.ran


@pytest.mark.parametrize(
    ("word", "verb"),
    [*((word, "create") for word in ("cr", "cre", "crea", "creat", "create")),
     *((word, "restore") for word in ("rest", "resto", "restor", "restore")),
     *(("migrate-receive"[:length], "migrate-receive") for length in range(8, 16))],
)  # fmt: skip
@pytest.mark.parametrize("options", [[], ["-v"], ["-vvv", "-t", "-T", "-f"]])
def test_creations_go_through_xlplug(hooked: Hooked, word: str, verb: str, options: list[str]) -> None:
    words = ["-p", "g.cfg", *ODD]
    assert went(hooked.run(*options, word, *words, CODE="77"), hooked.xlplug, 77) == [verb, *words]
    assert not hooked.real.ran
    environment = hooked.xlplug.read().environment
    assert environment["XLPLUG_XL"] == hooked.real.path
    assert environment["XLPLUG_XL_OPTIONS"].split() == options
    assert environment["XLPLUG_DEVICE_MODEL"] == "/usr/lib/xlplug/device-model"


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
        assert done.stderr == "xlplug: no xl in PATH; install it (Debian: xen-utils), or correct PATH\n"
    assert not hooked.xlplug.ran


def test_no_xlplug(hooked: Hooked) -> None:
    """The front end outlived the package: creations stop, with a word on how to go on; the rest is xl's as ever."""
    Path(hooked.xlplug.path).unlink()
    done = hooked.run("create", "g.cfg", PATH=f"{hooked.front}:{hooked.bin}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"xlplug: xlplug is missing; install it again, or run {hooked.real.path} itself\n"
    assert not hooked.real.ran
    assert went(hooked.run("list"), hooked.real) == ["list"]


def test_what_the_installer_replaces_is_there() -> None:
    text = (HOOKS / "xl").read_text()
    assert text.count("\nxlplug=xlplug\n") == 1
    assert text.count("\nwrapper=/usr/lib/xlplug/device-model\n") == 1
    lines = (HOOKS / "device-model").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/python3 -I"
    assert lines.count("import sys") == 1


@pytest.mark.parametrize("name", ["xl", "device-model"])
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
