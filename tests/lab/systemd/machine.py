# SPDX-License-Identifier: LGPL-2.1-only
"""The machine whose dom0 starts systemd.

Its display is behind a bridge: before libvirt gives a device to a guest, it resets it, and this one can be reset by its bus only.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.tree import Tree
from tests.lab.vm import Machine

HERE = Path(__file__).parent
#: The display, on the bus of the only bridge.
DISPLAY = "0000:01:00.0"


@contextmanager
def with_systemd(built: Tree, job: Path) -> Iterator[Machine]:
    """The machine; dom0.sh sees /job/systemd and becomes systemd, with the job as a unit."""
    folder = job / "systemd"
    folder.mkdir()
    shutil.copy(HERE / "lab-job.service", folder)
    bridge = ("-device", "pcie-root-port,id=bridge,addr=1.0")
    yield Machine(displays=("-vga", "none", *bridge, "-device", "VGA,bus=bridge"))
