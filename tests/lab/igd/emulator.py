# SPDX-License-Identifier: LGPL-2.1-only
"""The lab's fourth tree: a newer QEMU, to emulate a machine with a display of our own, and as the newest device model there is.

Unpacked only: nothing in it is configured, and its programs run on its own loader and libraries.
"""

import shutil
from pathlib import Path

from tests.lab import tree

#: The first Debian release whose QEMU has vfio-user-pci, from its backports.  Built for its own Xen: as a device model, for 4.20.
SUITE, PACKAGES = "trixie", ("qemu-system-x86", "seabios", "qemu-system-xen")


def emulator() -> Path:
    """The tree's root, from the cache or fetched now (some minutes: 180 MB).

    Raises:
        BuildError: with the end of what the failing command said.
    """
    return tree.cached("emulator", (Path(__file__),), _fetch) / "root"


def _fetch(part: Path) -> None:
    root = part / "root"
    tree.debootstrap(SUITE, root, "extract", PACKAGES, backports=True)
    shutil.rmtree(root / "var", ignore_errors=True)
