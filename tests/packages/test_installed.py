# SPDX-License-Identifier: LGPL-2.1-only
"""What a wheel and ``make install`` bring, without the checkout in sight."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.abi.oracle import require
from tests.unit.hook.test_install import FILES, tree

ROOT = Path(__file__).parents[2]


def builder() -> str:
    """An interpreter that can build a wheel."""
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import setuptools, wheel"], capture_output=True).returncode == 0:
            return python
    require("wheel", "setuptools and wheel are not installed (Debian: python3-setuptools, python3-wheel)")
    raise AssertionError


def test_an_installed_package_brings_its_hooks(tmp_path: Path) -> None:
    """Built from a copy, unpacked like an installer does, and without the checkout in sight."""
    python = builder()
    source, site, prefix = tmp_path / "source", tmp_path / "site-packages", tmp_path / "prefix"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0")[:-1]:
        if name.startswith(("xlplug/", "hooks/", "pyproject", "README", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                (source / name).symlink_to((ROOT / name).readlink())
            else:
                (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([python, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([python, "-m", "zipfile", "-e", wheel, site], check=True)
    for name in ("xl", "device-model", "xlplug", "xlplug-watch.service"):
        assert (site / "xlplug" / "_hooks" / name).read_bytes() == (ROOT / "hooks" / name).read_bytes()
    run = "import sys; sys.path.insert(0, sys.argv.pop(1)); from xlplug.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", run, site, "hook", "install", "--prefix", prefix],
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [name for name, data in tree(prefix).items() if data is not None] == FILES
    for name in ("device-model", "xlplug"):
        text = (prefix / "lib" / "xlplug" / name).read_text()
        folders = next(line for line in text.splitlines() if line.startswith("FOLDERS = "))
        assert str(site) in folders
        assert f"{ROOT}'" not in folders  # of the checkout it has, at most, the virtual environment
    done = subprocess.run([prefix / "lib/xlplug/xlplug", "--version"], cwd="/", env={}, capture_output=True, text=True)
    assert done.stdout.startswith("xlplug "), done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make install`` makes, with the modules in m/."""
    folder = tmp_path_factory.mktemp("installed")
    where = [f"DESTDIR={folder}", f"MODULES={folder}/m", "PREFIX=/usr", f"PYTHON={sys.executable}"]
    subprocess.run(["make", "-s", "install", *where], cwd=ROOT, check=True)
    shutil.move(folder / str(folder / "m").lstrip("/"), folder / "m")
    return folder


def test_make_install_brings_every_module(installed: Path) -> None:
    """And each can be imported from there, which a folder that was forgotten in a list would prevent."""
    site = installed / "m"
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "xlplug").rglob("*.py")
        if path.name not in ("_build.py", "__main__.py")
    ]
    code = f"import sys, importlib; sys.path.insert(0, {str(site)!r})\nfor m in {modules}: importlib.import_module(m)\n"
    code += "import xlplug; print(xlplug.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{site}/xlplug/__init__.py\n", "")


def test_make_install_brings_a_program_that_starts_bare(installed: Path) -> None:
    """It finds its modules by itself, click among them, and the usual folders are not searched for that."""
    program = installed / "usr" / "bin" / "xlplug"
    for words, expected in ((["--version"], "xlplug "), (["grant", "--help"], "Usage: xlplug grant")):
        done = subprocess.run([program, *words], cwd="/", env={}, capture_output=True, text=True)
        assert done.stdout.startswith(expected), done.stderr
    assert modules_of(program, "grant", "7", "--dry-run", "--recorded", f"{ROOT}/tests/recorded/domains/igd-laptop") & {
        "site", "click", "importlib.metadata", "pyudev", "subprocess"} == set()  # fmt: skip


def modules_of(program: Path, *words: str) -> set[str]:
    """The modules that a script of ours imports."""
    python, *options = program.read_text().splitlines()[0].removeprefix("#!").split()
    done = subprocess.run(
        [python, *options, "-X", "importtime", program, *words], cwd="/", env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
