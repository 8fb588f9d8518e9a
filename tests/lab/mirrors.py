# SPDX-License-Identifier: LGPL-2.1-only
"""Where the lab gets Debian's packages: from where this machine does, or from `VARIABLE`."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

#: "ARCHIVE [SECURITY]": the URLs of Debian's archive and of its security archive, which is the first and "-security" if left out.
VARIABLE = "XLPLUG_LAB_MIRROR"
_LINE = "$(REPO_URI) $(RELEASE) $(COMPONENT)"


class NoMirrorError(Exception):
    """Neither the variable nor apt's configuration names an archive of Debian."""


class Mirrors(NamedTuple):
    """The URLs of Debian's archive and of its security archive; that one is None where apt's configuration has none."""

    archive: str
    security: str | None

    def lines(self, suite: str, *, backports: bool = False) -> list[str]:
        """apt's source lines for a release."""
        found = [f"deb {self.archive} {suite} main", f"deb {self.archive} {suite}-updates main"]
        if self.security is not None:
            found.append(f"deb {self.security} {suite}-security main")
        if backports:
            found.append(f"deb {self.archive} {suite}-backports main")
        return found


def mirrors() -> Mirrors:
    """The mirrors to use here.

    Raises:
        NoMirrorError: this machine's apt has no archive of Debian, and the variable is not set.
    """
    given = os.environ.get(VARIABLE, "").split()
    if given:
        return Mirrors(given[0].rstrip("/"), given[1] if len(given) > 1 else f"{given[0].rstrip('/')}-security")
    try:
        shown = subprocess.run(
            ["apt-get", "indextargets", "--format", _LINE, "Identifier: Packages"], capture_output=True, text=True
        ).stdout
    except OSError as error:
        raise NoMirrorError(f"apt-get: {error.strerror}; set {VARIABLE} to the URL of a Debian archive") from error
    return from_targets(shown, _codename())


def from_targets(shown: str, codename: str) -> Mirrors:
    """The same from what apt says of its sources; ``codename`` is the release that this machine runs.

    Raises:
        NoMirrorError: none of them is an archive of Debian.
    """
    names = {codename, "oldstable", "stable", "testing", "unstable", "sid"} - {""}
    archive = security = None
    for uri, suite, component in (line.split() for line in shown.splitlines()):
        base = suite.replace("/updates", "-security").removesuffix("-security")
        if component != "main" or base not in names:
            continue
        if base == suite:
            archive = archive or uri.rstrip("/")
        else:
            security = security or uri.rstrip("/")
    if archive is None:
        raise NoMirrorError(f"apt has no source for Debian here; set {VARIABLE} to the URL of a Debian archive")
    return Mirrors(archive, security)


def _codename() -> str:
    """This machine's Debian release; "" when it runs something else, whose archive has no Debian packages."""
    try:
        words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    except OSError:
        return ""
    return words.get("VERSION_CODENAME", "").strip('"') if words.get("ID") == "debian" else ""
