# SPDX-License-Identifier: LGPL-2.1-only
"""Fixtures for tests that run in the lab's dom0: stock xl, the real Xen, and Xen's own dump as the oracle."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.versions import Behaviour, behaviour
from tests.forked import CHECKOUT, text
from xlplug.model.hypervisor import HeldRights
from xlplug.xen.lib import running_version
from xlplug.xen.qdump import parse_q

VGA = "0000:00:01.0"  # the lab machine's emulated display
IGD = f'gfx_passthru="igd"\npci=["{VGA}"]\n'
#: Without the virtual keyboard, for whose end libxl waits 2 s whenever a guest is destroyed.
BASE = 'type="hvm"\nmemory=64\nvcpus=1\nvnc=0\nvga="none"\nvkb_device=0\non_crash="preserve"\n'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.lab)


def patience(seconds: float) -> float:
    """So many seconds of a quiet machine, on this one: what dom0 measured after booting (tests/lab/slowness.py)."""
    return seconds * int(os.environ.get("XLPLUG_LAB_SLOWNESS", "100")) / 100


def sh(*argv: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=patience(timeout))


def xlplug(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, forked from one that has xlplug loaded: here loading takes longer than most commands."""
    return text(CHECKOUT.run(*argv, env={**os.environ, **env}))


def dump() -> dict[int, HeldRights]:
    """What Xen says, through xl and not through our bindings."""
    assert sh("xl", "debug-keys", "q").returncode == 0
    return parse_q(sh("xl", "dmesg").stdout)


def journal(domid: int) -> str:
    """What is recorded of a domain's rights; nothing where only the fact is left that they were revoked."""
    text = sh("xenstore-ls", f"/libxl/{domid}/xlplug").stdout
    return "" if 'state = "revoked"' in text else text


def discard(name: str) -> None:
    """Destroy a guest, if it is there, in which nothing is of interest any more.

    Its QEMU first: to let go of a display, libxl gives a guest 10 s, and a paused one needs them all.
    """
    domid = sh("xl", "domid", name).stdout.strip() or name
    pid = sh("xenstore-read", f"/local/domain/{domid}/image/device-model-pid").stdout.strip()
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    sh("xl", "destroy", domid)


class Guests:
    """Makes paused guests with stock xl, and destroys them."""

    count = 0  # of all, because names must differ

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[int] = []

    def make(self, extra: str = "", *, name: str = "") -> tuple[int, Path]:
        Guests.count += 1
        name = name or f"g{Guests.count}"
        path = self.folder / f"{name}.cfg"
        path.write_text(f'name="{name}"\n{BASE}{extra}')
        done = sh("xl", "create", "-p", str(path))
        assert done.returncode == 0, done.stderr
        domid = int(sh("xl", "domid", name).stdout)
        self.made.append(domid)
        return domid, path

    def destroy(self, domid: int) -> None:
        if domid in self.made:
            self.made.remove(domid)
        discard(str(domid))


@pytest.fixture(scope="session")
def does() -> Behaviour:
    """What the running Xen's version does."""
    return behaviour(running_version()[:2])


@pytest.fixture(scope="session", autouse=True)
def assignable() -> None:
    """The emulated display, bound to pciback."""
    sh("modprobe", "xen-pciback")
    sh("xl", "pci-assignable-add", VGA)
    assert VGA in sh("xl", "pci-assignable-list").stdout


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    them = Guests(tmp_path)
    yield them
    for domid in list(them.made):
        them.destroy(domid)


@pytest.fixture(scope="module")
def igd_guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A paused guest with the display, shared by a module: it takes seconds to make and more to destroy."""
    them = Guests(tmp_path_factory.mktemp("igd"))
    yield them.make(IGD)
    for domid in list(them.made):
        them.destroy(domid)
