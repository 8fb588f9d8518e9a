# SPDX-License-Identifier: LGPL-2.1-only
"""For tests of Debian's packages: commands that see no xlplug but the installed one."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.lab.dom0.hooked import STOCK

BUILT = Path("/xlplug/build/deb")
SHIM = Path("/usr/local/bin/xlplug")  # the lab's own, for the tree
COPIES = Path("/var/tmp/deb")


def run(*argv: str, timeout: int = 180) -> subprocess.CompletedProcess[str]:
    """A command as an administrator types it in a dom0 that has the packages and not the tree."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XLPLUG"))}
    env |= {"PATH": f"/usr/local/sbin:{STOCK}", "DEBIAN_FRONTEND": "noninteractive"}
    hidden = ["unshare", "-m", "sh", "-c", 'mount --bind /mnt /xlplug && exec "$@"', "sh"]
    return subprocess.run([*hidden, *argv], capture_output=True, text=True, timeout=timeout, env=env, cwd="/")


def ok(*argv: str) -> str:
    done = run(*argv)
    assert done.returncode == 0, (argv, done.stdout[-2000:], done.stderr)
    return done.stdout


def offer() -> None:
    """Put the packages where apt can reach them, and take the lab's own xlplug, which comes first in PATH, away."""
    packages = sorted(BUILT.glob("xlplug*_*.deb"))
    assert packages, "no packages to install: run 'make deb' before the lab"
    COPIES.mkdir()
    for package in packages:
        if "dbgsym" not in package.name:
            shutil.copy(package, COPIES)
    SHIM.rename(f"{SHIM}.away")


def withdraw() -> None:
    """Purge what was installed, and bring the lab's own back."""
    run("apt-get", "-y", "purge", "xlplug", "xlplug-preload")
    Path(f"{SHIM}.away").rename(SHIM)
    shutil.rmtree(COPIES)


def install() -> None:
    """Install them.  There is no network: nothing is pulled in but what Debian's dom0 has."""
    ok("sh", "-c", f"apt-get -y --no-install-recommends install {COPIES}/*.deb")
