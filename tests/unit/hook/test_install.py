# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug hook``: real files below a folder of ours, every path looked at before and after."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Forked, text
from tests.unit.fakes import recorder
from xlplug.hook import install
from xlplug.hook.device_model import PRELOAD, is_ours
from xlplug.model.errors import HostError

ROOT = Path(__file__).parents[3]
#: What is installed from: a copy, in which the preload library has not been built, unless a test does.
CHECKOUT = Path()
FORKED = Forked(CHECKOUT)


@pytest.fixture(scope="module", autouse=True)
def _checkout(tmp_path_factory: pytest.TempPathFactory) -> None:
    global CHECKOUT, FORKED  # noqa: PLW0603 - one copy for a module whose tests run a program in it
    CHECKOUT = tmp_path_factory.mktemp("checkout")
    for name in ("xlplug", "hooks"):
        shutil.copytree(ROOT / name, CHECKOUT / name)
    FORKED = Forked(CHECKOUT)


@pytest.fixture
def built() -> Iterator[Path]:
    """The library, as 'make preload' leaves it."""
    library = CHECKOUT / "build" / PRELOAD
    library.parent.mkdir()
    library.write_bytes(b"\x7fELF, or so")
    yield library
    shutil.rmtree(library.parent)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below, with its content; None for folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink()
    }


def xlplug(*words: str, path: str = "/usr/bin:/bin", umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    return text(FORKED.run(*words, env={"PATH": path}, umask=umask))


def line_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("xlplug: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


FILES = ["lib/xlplug/device-model", "lib/xlplug/manifest", "lib/xlplug/xlplug", "sbin/xl"]


def test_install_and_uninstall(tmp_path: Path) -> None:
    prefix = tmp_path / "deep" / "prefix"
    done = xlplug("hook", "install", "--prefix", str(prefix), umask=0o077)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"installed {prefix}/lib/xlplug/device-model\ninstalled {prefix}/lib/xlplug/xlplug\ninstalled {prefix}/sbin/xl\n"
        f"not yet in use: its folder is not in PATH; put {prefix}/sbin at the beginning of PATH\n"
    )
    assert [name for name, data in tree(prefix).items() if data is not None] == FILES
    assert [(prefix / name).stat().st_mode & 0o777 for name in FILES] == [0o755, 0o644, 0o755, 0o755]
    assert {folder.stat().st_mode & 0o777 for folder in (prefix, prefix / "sbin", prefix / "lib" / "xlplug")} == {0o755}
    assert is_ours(str(prefix / "sbin" / "xl"))
    assert is_ours(str(prefix / "lib" / "xlplug" / "device-model"))
    checked = subprocess.run(["sha256sum", "--strict", "-c", prefix / "lib/xlplug/manifest"], capture_output=True)
    assert checked.returncode == 0, checked.stderr
    done = xlplug("hook", "uninstall", "--prefix", str(prefix))
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(tmp_path) == {}


def test_nobody_else_may_write_to_what_is_being_written(tmp_path: Path) -> None:
    """Also with umask 0: who has opened a file can write to it after its mode is changed."""
    look = (
        "import os, sys\n"
        "def look(event, args, os=os, sys=sys):\n"
        "    if event in ('os.chmod', 'os.rename') and isinstance(args[0], (int, str)):\n"
        "        assert not os.stat(args[0]).st_mode & 0o022, args\n"
        "        print('seen', file=sys.stderr)\n"
        "sys.addaudithook(look)"
    )
    prefix = tmp_path / "prefix"
    for _ in range(2):
        done = text(FORKED.run("hook", "install", "--prefix", str(prefix), umask=0, before=look))
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("seen") >= 2 * len(FILES)
        for name in ("lib/xlplug/manifest", "sbin/xl"):  # as an installation leaves it that was killed at its worst
            left = prefix / f"{name}.xlplug-new"
            left.touch()
            left.chmod(0o666)


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    """/usr/local/sbin is the package manager's, empty or not."""
    for name in ("sbin", "lib/other"):
        (tmp_path / name).mkdir(parents=True)
    before = tree(tmp_path)
    for _ in range(2):  # again, over itself
        assert xlplug("hook", "install", "--prefix", str(tmp_path)).returncode == 0
    assert xlplug("hook", "uninstall", "--prefix", str(tmp_path)).returncode == 0
    assert tree(tmp_path) == before


def test_strangers_files_stay(tmp_path: Path) -> None:
    prefix = tmp_path / "p"
    assert xlplug("hook", "install", "--prefix", str(prefix)).returncode == 0
    for name in ("sbin/other", "lib/xlplug/notes"):
        (prefix / name).write_text("mine")
    assert xlplug("hook", "uninstall", "--prefix", str(prefix)).returncode == 0
    assert tree(prefix) == {
        "lib": None, "lib/xlplug": None, "lib/xlplug/notes": b"mine", "sbin": None, "sbin/other": b"mine",
    }  # fmt: skip


def test_an_older_version_is_replaced(tmp_path: Path) -> None:
    assert xlplug("hook", "install", "--prefix", str(tmp_path)).returncode == 0
    wrapper, manifest = tmp_path / "lib/xlplug/device-model", tmp_path / "lib/xlplug/manifest"
    new = wrapper.read_bytes()
    old = new.replace(b"it grants", b"it granted")
    wrapper.write_bytes(old)
    digests = [hashlib.sha256(data).hexdigest() for data in (new, old)]
    manifest.write_text(manifest.read_text().replace(*digests))
    (tmp_path / "sbin" / "xl").unlink()  # by hand
    done = xlplug("hook", "install", "--prefix", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert wrapper.read_bytes() == new
    assert is_ours(str(tmp_path / "sbin" / "xl"))


def test_an_installation_whose_folder_was_removed_is_repaired(tmp_path: Path) -> None:
    install = ("hook", "install", "--prefix", str(tmp_path))
    assert xlplug(*install).returncode == 0
    before = set(tree(tmp_path))
    shutil.rmtree(tmp_path / "lib" / "xlplug")
    line = line_of(xlplug("hook", "uninstall", "--prefix", str(tmp_path)))
    assert "no list of what was installed; run 'xlplug hook install' first" in line
    assert xlplug(*install).returncode == 0
    assert set(tree(tmp_path)) == before
    assert xlplug("hook", "uninstall", "--prefix", str(tmp_path)).returncode == 0


@pytest.mark.parametrize("name", ["sbin/xl", "lib/xlplug/device-model", "lib/xlplug/xlplug"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder", "front end"])
def test_what_is_there_already_is_not_touched(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    elif kind in ("link", "dangling"):
        path.symlink_to("/bin/sh" if kind == "link" else "nowhere")
    else:
        path.write_bytes(b"mine" if kind == "file" else (ROOT / "hooks" / "xl").read_bytes())
    before = tree(tmp_path)
    line = line_of(xlplug("hook", "install", "--prefix", str(tmp_path)))
    if kind == "front end":
        assert line == f"xlplug: {path} is not as this xlplug installs it; look at it, then remove it [XLP604]\n"
    else:
        assert line == f"xlplug: {path} exists and is not xlplug's; give another --prefix [XLP604]\n"
    assert tree(tmp_path) == before
    assert os.path.lexists(path)


def test_the_library_comes_along_when_it_is_built(tmp_path: Path, built: Path) -> None:
    prefix = tmp_path / "p"
    library = prefix / "lib/xlplug" / PRELOAD
    done = xlplug("hook", "install", "--prefix", str(prefix), umask=0o077)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"installed {library}\n" in done.stdout
    assert library.read_bytes() == built.read_bytes()
    assert library.stat().st_mode & 0o777 == 0o644
    assert f"preload       {library}\n" in status(prefix / "sbin").stdout
    built.write_bytes(b"newer")
    assert xlplug("hook", "install", "--prefix", str(prefix)).returncode == 0
    assert library.read_bytes() == b"newer"
    built.unlink()  # what is installed stays, and stays ours
    assert xlplug("hook", "install", "--prefix", str(prefix)).returncode == 0
    assert library.read_bytes() == b"newer"
    assert xlplug("hook", "uninstall", "--prefix", str(prefix)).returncode == 0
    assert tree(tmp_path) == {}


def test_the_package_managers_library_stays_its_own(tmp_path: Path, built: Path) -> None:
    library = tmp_path / "lib/xlplug" / PRELOAD
    library.parent.mkdir(parents=True)
    library.write_bytes(b"packaged")
    for command in ("install", "uninstall"):
        done = xlplug("hook", command, "--prefix", str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert PRELOAD not in done.stdout
        assert library.read_bytes() == b"packaged"
    assert built.exists()


@pytest.mark.parametrize("name", ["sbin/xl", "lib/xlplug/device-model", "lib/xlplug/xlplug"])
@pytest.mark.parametrize("kind", ["edited", "link", "folder"])
def test_what_was_changed_stays(tmp_path: Path, name: str, kind: str) -> None:
    assert xlplug("hook", "install", "--prefix", str(tmp_path)).returncode == 0
    path = tmp_path / name
    if kind == "edited":
        path.write_bytes(path.read_bytes() + b"# mine\n")
    else:
        path.unlink()
        path.mkdir() if kind == "folder" else path.symlink_to("/bin/sh")
    before = tree(tmp_path)
    line = line_of(xlplug("hook", "install", "--prefix", str(tmp_path)))
    assert line == f"xlplug: {path} was changed since it was installed; save your changes, then remove it [XLP604]\n"
    assert tree(tmp_path) == before
    done = xlplug("hook", "uninstall", "--prefix", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert f"left in place, because it was changed: {path}\n" in done.stdout
    assert os.path.lexists(path)
    assert [n for n in FILES if os.path.lexists(tmp_path / n)] == [name]


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize(
    ("line", "named"),
    [("0  /etc/passwd", "'/etc/passwd'"), ("# made /etc", "'# made /etc'"), ("garbage", "'garbage'"),
     ("0  @/sbin/xl/../xl", "'@/sbin/xl/../xl'"), ("# made @/sbin/other", "'# made @/sbin/other'"), ("\udcff", "")],
)  # fmt: skip
def test_a_manifest_that_names_something_else(tmp_path: Path, verb: str, line: str, named: str) -> None:
    folder = tmp_path / "lib" / "xlplug"
    folder.mkdir(parents=True)
    text = line.replace("@", str(tmp_path))
    (folder / "manifest").write_text(f"{text}\n", "utf-8", "surrogateescape")
    before = tree(tmp_path)
    message = line_of(xlplug("hook", verb, "--prefix", str(tmp_path)))
    assert f"manifest names {named.replace('@', str(tmp_path))}" in message
    assert message.endswith("which is not xlplug's; remove that line [XLP610]\n")
    assert tree(tmp_path) == before


def test_a_prefix_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for prefix in (str(tmp_path / "file"), "/proc/xlplug", str(tmp_path / "file" / "deep")):
        line = line_of(xlplug("hook", "install", "--prefix", prefix))
        assert line.endswith("; give a --prefix that can be written [XLP605]\n")
        assert "None" not in line
    assert tree(tmp_path) == {"file": b""}


def test_a_full_disk_leaves_all_as_it_was(tmp_path: Path) -> None:
    """No file may be longer than 100 bytes, which the wrapper is."""
    script = (
        "import resource, signal, sys; from xlplug.commands import common as commands; from xlplug.hook import install; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.exit(commands.run(install.install, sys.argv[1]))"
    )

    def full() -> str:
        return line_of(
            subprocess.run(
                [sys.executable, "-c", script, str(tmp_path / "p")], cwd=CHECKOUT, capture_output=True, text=True
            )
        )

    assert full() == f"xlplug: {tmp_path}/p: File too large; give a --prefix that can be written [XLP605]\n"
    assert tree(tmp_path) == {}
    assert xlplug("hook", "install", "--prefix", str(tmp_path / "p")).returncode == 0
    before = tree(tmp_path)
    assert "File too large" in full()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_prefix_that_xl_cannot_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match="cannot be written in an xl config; give another --prefix"):
        install.install(str(tmp_path / name))
    assert tree(tmp_path) == {}


def test_a_prefix_with_spaces_and_quotes_works(tmp_path: Path) -> None:
    prefix = tmp_path / "it's $HOME"
    assert xlplug("hook", "install", "--prefix", str(prefix)).returncode == 0
    xl = recorder(tmp_path / "xl")
    done = subprocess.run([prefix / "sbin/xl", "list"], env={"PATH": f"{prefix}/sbin:{tmp_path}:/usr/bin"})
    assert done.returncode == 0
    assert xl.ran
    assert f"wrapper       {prefix}/lib/xlplug/device-model\n" in status(prefix, tmp_path).stdout


@pytest.mark.parametrize("executable", ["", "/opt/my python/bin/python3", "/" + "p" * 260])
def test_an_interpreter_that_cannot_start_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(HostError, match="cannot start a script; run xlplug with /usr/bin/python3"):
        install.install(str(tmp_path / "p"))
    assert tree(tmp_path) == {}


def test_uninstall_where_nothing_is(tmp_path: Path) -> None:
    line = line_of(xlplug("hook", "uninstall", "--prefix", str(tmp_path)))
    assert (
        line
        == f"xlplug: xlplug's hook is not installed below {tmp_path}; give the --prefix it was installed with [XLP606]\n"
    )


def test_the_installed_wrapper_runs(tmp_path: Path) -> None:
    """In isolated mode (-I), from anywhere: it finds the package; here it finds no Xen."""
    assert xlplug("hook", "install", "--prefix", str(tmp_path)).returncode == 0
    done = subprocess.run(
        [tmp_path / "lib/xlplug/device-model", "-help"], cwd="/", env={}, capture_output=True, text=True
    )
    assert "does not run on Xen" in line_of(done)


# status


def status(*folders: Path, words: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    path = ":".join(
        [*(str(folder / "sbin" if (folder / "sbin").is_dir() else folder) for folder in folders), "/usr/bin"]
    )
    return xlplug("hook", "status", *words, path=path)


def test_status(tmp_path: Path) -> None:
    one, two, real = tmp_path / "one", tmp_path / "two", tmp_path / "real"
    real.mkdir()
    recorder(real / "xl")
    done = status(real)
    assert done.returncode == 1
    assert done.stdout.startswith(f"xl            {real}/xl\nreal xl       {real}/xl\nwrapper       ")
    assert "'xl create' is not hooked; run 'xlplug hook install'" in done.stdout
    assert "install the package xlplug-preload" in done.stdout
    shown = json.loads(status(real, words=("--format", "json", str(ROOT / "examples/domain.cfg"))).stdout)
    assert (shown["hooked"], shown["xl"], shown["real_xl"]) == (False, f"{real}/xl", f"{real}/xl")
    assert "is not hooked" in shown["advice"][0]
    assert "the wrapper would run;" in shown["advice"][1]
    for prefix in (one, two):
        assert xlplug("hook", "install", "--prefix", str(prefix)).returncode == 0
    done = status(real, one)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        1,
        f"'xl create' is not hooked; put {one}/sbin at the beginning of PATH",
    )
    done = status(one, two, real)  # two hooks: the first counts, and neither calls the other
    assert done.returncode == 0
    assert done.stdout.startswith(
        f"xl            {one}/sbin/xl (the front end of xlplug)\nreal xl       {real}/xl\n"
        f"wrapper       {one}/lib/xlplug/device-model\ndevice model  "
    )
    assert "not hooked" not in done.stdout
    done = status(real, one)  # the folder in the wrong place
    assert done.returncode == 1
    assert "not hooked" in done.stdout
    assert "real xl       none: no xl in PATH" in status(one).stdout
    (one / "lib/xlplug/device-model").unlink()
    done = status(one, real)
    assert f"wrapper       none: there is no device model wrapper at {one}/lib/xlplug/device-model" in done.stdout
    assert done.stdout.count("there is no device model wrapper") == 1


def test_status_of_a_config(tmp_path: Path) -> None:
    plain, legacy = tmp_path / "plain.cfg", tmp_path / "legacy.cfg"
    plain.write_text('name="g"\ntype="hvm"\n')
    legacy.write_text('name="g"\ntype="hvm"\ngfx_passthru="igd"\ndevice_model_override="/opt/qemu"\n')
    assert status(words=(str(plain),)).stdout.endswith("needs no legacy range, so xl runs unchanged\n")
    text = f"the wrapper would run, then the config's own /opt/qemu; for what it grants: xlplug plan {legacy}\n"
    assert status(words=(str(legacy),)).stdout.endswith(text)
    assert status(words=(str(legacy), "gfx_passthru=0")).stdout.endswith("unchanged\n")
    for path, why in (
        ("none.cfg", "No such file or directory"),
        (".", "not a regular file, and xl reads no other"),
    ):
        done = status(words=(str(tmp_path / path),))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.endswith(f": {why}; give the path of an xl config [XLP201]\n")


def test_a_shell_that_may_remember_the_real_xl(tmp_path: Path) -> None:
    """It has looked xl up before the front end was there; only "hash -r" makes it look again."""
    prefix, program = tmp_path / "prefix", f"{sys.executable} -m xlplug"
    script = (
        f"PATH={prefix}/sbin:$PATH; sleep 0.05; {program} hook install --prefix {prefix}; echo --; {program} hook status; "
        f"echo --; sh -c '{program} hook status; :'"
    )
    done = subprocess.run(["sh", "-c", script], cwd=CHECKOUT, capture_output=True, text=True)
    installed, old, new = done.stdout.split("--\n")
    assert installed.endswith("in shells that are open, run: hash -r\n")
    assert "your shell is older than the hook; if it has run xl before, run: hash -r\n" in old
    assert "hash -r" not in new


@pytest.mark.parametrize("name", ["device-model", "xlplug"])
def test_a_script_whose_folders_have_gone_asks_python(tmp_path: Path, name: str) -> None:
    """As it is in hooks/, where a packager may take it from: FOLDERS is empty."""
    script = tmp_path / name
    script.write_text((ROOT / "hooks" / name).read_text().replace("/usr/bin/python3", sys.executable))
    script.chmod(0o755)
    done = subprocess.run([script, "--version"], cwd="/", env={}, capture_output=True, text=True)
    if name == "xlplug":
        assert done.stdout.startswith("xlplug "), done.stderr  # this environment has it
    else:
        assert "does not run on Xen" in line_of(done)
    script.write_text(script.read_text().replace("site.main()", "pass"))
    line = line_of(subprocess.run([script, "-help"], cwd="/", env={}, capture_output=True, text=True))
    assert line == f"xlplug: {script}: No module named 'xlplug'; install xlplug again, or remove its hook\n"
