# SPDX-License-Identifier: LGPL-2.1-only
"""The hook of a package: what ``make install install-hook`` puts below a prefix, and the link that switches it on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Packaged(NamedTuple):
    """An installed package in a folder of its own: PREFIX is ``home``/usr, the hook goes below ``home``/local."""

    home: Path

    def run(self, *argv: str, path: str = "") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(self.home / "modules"), "PATH": path or os.environ["PATH"]}
        return subprocess.run(argv, capture_output=True, text=True, env=env)

    def hook(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.home / "usr/bin/xlplug"), "hook", *words, "--prefix", str(self.home / "local"))

    @property
    def link(self) -> Path:
        return self.home / "local/sbin/xl"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    home = tmp_path_factory.mktemp("package")
    where = [f"PREFIX={home}/usr", f"MODULES={home}/modules", f"PYTHON={sys.executable}"]
    subprocess.run(["make", "-s", "install", "install-hook", *where], cwd=ROOT, check=True, capture_output=True)
    return Packaged(home)


@pytest.fixture
def package(installed: Packaged) -> Packaged:
    installed.link.parent.mkdir(parents=True, exist_ok=True)
    installed.link.unlink(missing_ok=True)
    return installed


def test_the_hook_is_a_link_and_nothing_else(package: Packaged) -> None:
    before = sorted(package.home.rglob("*"))
    done = package.hook("install")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.readlink(package.link) == str(package.home / "usr/lib/xlplug/xl")
    again = package.hook("install")
    assert again.returncode == 0
    assert package.hook("uninstall").returncode == 0
    assert [p for p in sorted(package.home.rglob("*")) if "__pycache__" not in p.parts] == [
        p for p in before if "__pycache__" not in p.parts
    ]
    assert package.hook("uninstall").returncode == 1


def test_the_link_runs_our_create_and_the_real_xl(package: Packaged, tmp_path: Path) -> None:
    package.hook("install")
    real = tmp_path / "xl"
    real.write_text('#!/bin/sh\necho "xl $*"\n')
    real.chmod(0o755)
    path = f"{package.link.parent}:{tmp_path}:/usr/bin:/bin"
    assert package.run("xl", "list", "-l", path=path).stdout == "xl list -l\n"
    config = tmp_path / "plain.cfg"
    config.write_text('name="a"\ntype="hvm"\n')
    assert package.run("xl", "create", "-p", str(config), path=path).stdout == f"xl create -p {config}\n"
    config.write_text("name=")
    real.write_text("#!/bin/sh\nexit 7\n")
    assert package.run("xl", "create", str(config), path=path).returncode == 7, "xl rejects it, so xl's status"
    status = package.run(str(package.home / "usr/bin/xlplug"), "hook", "status", path=path)
    assert f"{package.link} (the front end of xlplug)" in status.stdout
    assert f"wrapper       {package.home}/usr/lib/xlplug/device-model" in status.stdout


def test_another_program_at_that_place_is_left_alone(package: Packaged) -> None:
    package.link.write_text("#!/bin/sh\n")
    done = package.hook("install")
    assert done.returncode == 1
    assert "exists and is not xlplug's" in done.stderr
    assert package.hook("uninstall").returncode == 1
    assert package.link.read_text() == "#!/bin/sh\n"


def test_a_link_whose_package_is_gone_can_be_removed(package: Packaged, tmp_path: Path) -> None:
    package.link.symlink_to(tmp_path / "lib/xlplug/xl")
    done = package.hook("uninstall")
    assert (done.returncode, done.stdout) == (0, f"removed {package.link}\n")
    assert not os.path.lexists(package.link)


def test_doctor_sees_the_link(package: Packaged) -> None:
    package.hook("install")
    path = f"{package.link.parent}:/usr/bin:/bin"
    said = package.run(str(package.home / "usr/bin/xlplug"), "doctor", path=path).stdout
    line = next(line for line in said.splitlines() if " hook files " in line)
    assert line.split()[0] == "ok", line


def test_copies_of_before_are_replaced_by_copies(package: Packaged) -> None:
    """Running guests reboot through a copied wrapper, so it must not go away behind them."""
    plain = [sys.executable, "-m", "xlplug", "hook", "install", "--prefix", str(package.home / "local")]
    assert package.run(*plain).returncode == 0
    done = package.hook("install")
    assert done.returncode == 0, done.stderr
    assert not package.link.is_symlink()
    assert (package.home / "local/lib/xlplug/device-model").exists()
    assert package.hook("uninstall").returncode == 0
