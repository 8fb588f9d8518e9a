# SPDX-License-Identifier: LGPL-2.1-only
"""For tests in dom0 of the machine with the Intel display."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import sh
from tests.lab.dom0.hooked import installed
from tests.lab.igd.dom0.display import DISPLAY, QEMU_11
from tests.lab.igd.machine import SHARE
from xlplug.xen.lib import running_version

#: Xen and the QEMU of the same Debian release, as docs/igd.md calls them.
COLUMNS = {(4, 14): "4.14, QEMU 5.2", (4, 17): "4.17, QEMU 7.2", (4, 20): "4.20, QEMU 10.0"}
#: Between the wrapper and the newest QEMU, which brings its own libraries; its firmware is searched for last.
_DEVICE_MODEL = """\
#!/bin/sh
t={root}
exec $t/usr/lib64/ld-linux-x86-64.so.2 --library-path $t/usr/lib/x86_64-linux-gnu $t/usr/libexec/xen-qemu-system-i386 "$@" \\
 -L $t/usr/share/seabios -L $t/usr/share/qemu -L $t/usr/lib/ipxe/qemu
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session", autouse=True)
def assignable() -> None:
    """The display, bound to pciback."""
    sh("modprobe", "xen-pciback")
    sh("xl", "pci-assignable-add", DISPLAY)
    assert DISPLAY in sh("xl", "pci-assignable-list").stdout


@pytest.fixture(scope="session", autouse=True)
def hook() -> Iterator[None]:
    """The hook with its preload library, as a package installs them."""
    yield from installed(library=True)


@pytest.fixture(scope="session")
def version() -> tuple[int, int]:
    major, minor, *_ = running_version()
    return major, minor


@pytest.fixture(scope="session")
def column(version: tuple[int, int]) -> str:
    """This machine's column in docs/igd.md."""
    return COLUMNS[version]


@pytest.fixture(scope="session")
def qemu_11(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config's lines for Debian's newest QEMU as device model: it is built for Xen 4.20."""
    root = Path("/run/qemu11")
    root.mkdir()
    options = "trans=virtio,version=9p2000.L,msize=1048576,ro,cache=loose"
    done = sh("mount", "-t", "9p", "-o", options, SHARE, str(root))
    assert done.returncode == 0, done.stderr
    program = tmp_path_factory.mktemp("qemu") / QEMU_11
    program.write_text(_DEVICE_MODEL.format(root=root))
    program.chmod(0o755)
    return f'device_model_override="{program}"\ndevice_model_version="qemu-xen"\n'
