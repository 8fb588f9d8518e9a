# SPDX-License-Identifier: LGPL-2.1-only
"""What a release is: the same bytes wherever it is made, the same content in each form, and linters that agree.

``make deb`` has built Debian's packages before (tests/run.sh), because the lab installs them; the rest is built here.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import xlplug
from tests.abi.oracle import require

ROOT = Path(__file__).parents[2]
DEB = ROOT / "build" / "deb"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        require("packages", f"{name} is not installed")
    return str(path)


def run(*argv: str | Path, **env: str) -> str:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def commit() -> str:
    return run("git", "rev-parse", "HEAD").strip()


def tracked(commit: str, *folders: str) -> set[str]:
    return set(run("git", "ls-tree", "-r", "--name-only", commit, *folders).split())


@pytest.fixture(scope="module")
def release(commit: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("dpkg-buildpackage", "rpmbuild", "scdoc", "git"):
        tool(name)
    out = tmp_path_factory.mktemp("release")
    run("packaging/release.sh", out, commit, PYTHON=sys.executable)
    return out


def deb_files(package: Path) -> set[str]:
    """Paths of what a package installs, with manual pages as they are called before they are compressed."""
    listing = run("dpkg-deb", "-c", package)
    paths = [line.split(maxsplit=5)[5].removeprefix(".") for line in listing.splitlines()]
    return {path.removesuffix(".gz") for path in paths if not path.endswith("/")}


def rpm_files(package: Path) -> set[str]:
    return {path.removesuffix(".gz") for path in run("rpm", "-qpl", package).splitlines()}


#: Folders of bash, of zsh in Debian and elsewhere, and of fish.
COMPLETION = ("bash-completion/completions", "vendor-completions", "site-functions", "vendor_completions.d")


def parts(paths: set[str], package: str) -> dict[str, set[str]]:
    """What users reach, wherever a distribution puts it: modules, pages, completion."""
    modules = {p.split(package, 1)[1] for p in paths if package in p and "__pycache__" not in p}
    return {
        "modules": {m for m in modules if Path(m).suffix or m.startswith("_hooks/")},
        "pages": {Path(p).name for p in paths if "/man/man" in p and Path(p).suffix[1:].isdigit()},
        "completion": {Path(p).name for p in paths if any(f"/{folder}/" in p for folder in COMPLETION)}
        - {"completions", "vendor_completions.d", "vendor-completions", "site-functions"},
    }


def test_every_form_has_the_same_content(release: Path, commit: str) -> None:
    with zipfile.ZipFile(next(release.glob("*.whl"))) as wheel:
        in_wheel = parts({f"/{name}" for name in wheel.namelist()}, "/xlplug/")
    in_deb = parts(deb_files(next(release.glob("xlplug_*_all.deb"))), "/dist-packages/xlplug/")
    in_rpm = parts(rpm_files(next(release.glob("xlplug-[0-9]*.noarch.rpm"))), "/site-packages/xlplug/")
    with tarfile.open(next(release.glob("*.tar.gz"))) as sdist:
        names = set(sdist.getnames())
    modules = tracked(commit, "xlplug")
    expected = {p.removeprefix("xlplug/") for p in modules if p.startswith("xlplug/") and Path(p).suffix}
    expected |= {"_hooks/xl", "_hooks/device-model", "_hooks/xlplug", "_hooks/xlplug-watch.service", "py.typed"}
    assert in_wheel["modules"] - {"py.typed"} == expected - {"py.typed"}
    assert in_deb == in_wheel
    assert in_rpm == in_wheel
    assert len(in_wheel["pages"]) > 12
    assert in_wheel["completion"] == {"xlplug", "_xlplug", "xlplug.fish"}
    top = f"xlplug-{xlplug.__version__}"
    missing = {name for name in tracked(commit) if f"{top}/{name}" not in names} - {"xlplug/_hooks"}
    assert not missing, "the sdist lacks what git has"
    assert f"{top}/packaging/generated/man/xlplug.8" in names


def test_a_release_is_the_same_bytes_elsewhere(release: Path, commit: str, tmp_path: Path) -> None:
    clone, out = tmp_path / "another place", tmp_path / "out"
    run("git", "clone", "-q", ROOT, clone)
    script = 'umask 077; cd "$1" && packaging/release.sh "$2" "$3"'
    run(
        "sh",
        "-c",
        script,
        "sh",
        clone,
        out,
        commit,
        PYTHON=sys.executable,
        TZ="Asia/Tokyo",
        LC_ALL="C",
        HOME=str(tmp_path),
    )
    assert (out / "SHA256SUMS").read_text() == (release / "SHA256SUMS").read_text()
    names = {line.split()[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert {Path(name).suffix for name in names} >= {".deb", ".rpm", ".whl", ".gz", ".xz", ".dsc"}


def test_lintian_is_silent() -> None:
    changes = list(DEB.glob("*.changes"))
    if not changes:
        require("packages", "build/deb has no packages; run 'make deb'")
    said = run(tool("lintian"), "--allow-root", "--fail-on", "error,warning", "--display-level", ">=warning", *changes)
    assert said == ""


def test_rpmlint_is_silent(release: Path) -> None:
    said = run(tool("rpmlint"), "-c", "packaging/rpmlint.toml", *release.glob("*.rpm"), *ROOT.glob("packaging/*.spec"))
    assert " 0 errors, 0 warnings" in said, said


def test_versions_agree() -> None:
    for spec in ROOT.glob("packaging/*.spec"):
        assert f"\nVersion:        {xlplug.__version__}\n" in spec.read_text(), spec
    assert run("dpkg-parsechangelog", "-S", "Version").strip() == xlplug.__version__


def test_dependencies_are_the_ones_of_the_python_package() -> None:
    """Debian's are found by dh_python3, so a new one in pyproject.toml arrives; the spec's are written by hand."""
    control = run("dpkg-deb", "-f", next(DEB.glob("xlplug_*_all.deb")), "Depends")
    spec = (ROOT / "packaging" / "xlplug.spec").read_text()
    for name in ("cffi", "click", "pyudev"):
        assert f"python3-{name}" in control
        assert f"Requires:       python3-{name}\n" in spec
    assert "python3 (>= 3.11)" in control
