# SPDX-License-Identifier: LGPL-2.1-only
"""The hook, installed for a module's tests; guests made through it or past it; a device model that tells what it was given."""

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tests.lab.dom0.conftest import BASE, discard, dump, patience, sh
from xlplug.model.hypervisor import HeldRights
from xlplug.xen.qdump import parse_q

FRONT_END = "/usr/local/sbin/xl"
WRAPPER = "/usr/local/lib/xlplug/device-model"
LIBRARY = "/usr/local/lib/xlplug/libxlplug-preload.so"
STOCK = os.environ["PATH"]

#: Between our wrapper and QEMU: writes down Xen's dump, its arguments, environment, descriptors and signals.
PROBE = """#!/bin/sh
if [ "$1" = -xen-domid ]; then
	xl debug-keys q; xl dmesg >{out}/dump
	for word; do echo "$word"; done >{out}/argv
	env >{out}/env
	grep ^Sig /proc/$$/status >{out}/signals
	for fd in /proc/$$/fd/*; do echo "${{fd##*/}} $(readlink "$fd")"; done >{out}/fds
	echo $$ >{out}/pid
fi
exec {qemu} "$@"
"""


class Given(NamedTuple):
    """What a device model was started with, as the probe saw it."""

    held: dict[int, HeldRights]
    argv: list[str]
    env: dict[str, str]
    signals: str
    fds: dict[int, str]
    pid: int


class Probe:
    """A device model of one's own, to be chained behind the wrapper: ``line`` goes into the config."""

    def __init__(self, folder: Path, qemu: str) -> None:
        self.folder = folder
        self.path = folder / "probe"
        self.path.write_text(PROBE.format(out=folder, qemu=qemu))
        self.path.chmod(0o755)
        self.line = f'device_model_override="{self.path}"\ndevice_model_version="qemu-xen"\n'

    def read(self) -> Given:
        def text(name: str) -> str:
            return (self.folder / name).read_text(errors="replace")

        return Given(
            parse_q(text("dump")),
            text("argv").splitlines(),
            dict(line.split("=", 1) for line in text("env").splitlines() if re.match(r"\w+=", line)),
            text("signals"),
            {int(line.split()[0]): line.split()[-1] for line in text("fds").splitlines()},
            int(text("pid")),
        )


def xl(
    *argv: str, front_end: bool = True, stdin: IO[bytes] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """``xl`` as an administrator types it, with the front end first in PATH or without it."""
    path = f"/usr/local/sbin:{STOCK}" if front_end else STOCK
    return subprocess.run(
        ["xl", *argv],
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=patience(180),
        env={**os.environ, "PATH": path, **env},
    )


def name_for(request: pytest.FixtureRequest) -> str:
    """A domain's name that is the test's own, without digits: they are domids in what tests compare."""
    return (
        hashlib.sha256(request.node.name.encode()).hexdigest()[:12].translate(str.maketrans("0123456789", "ghijklmnop"))
    )


@contextmanager
def own_config(folder: Path, request: pytest.FixtureRequest, extra: str = "") -> Iterator[Path]:
    """A config's path; its name is the test's, and the domain that bears it is destroyed at the end."""
    name = name_for(request)
    path = folder / f"{name}.cfg"
    path.write_text(f'name="{name}"\n{BASE}{extra}')
    yield path
    if domid_of(name) is not None:
        discard(name)
    assert domid_of(name) is None


def add(path: Path, text: str) -> None:
    """Add to a config."""
    path.write_text(path.read_text() + text)


def domid_of(name: str) -> int | None:
    done = sh("xl", "domid", name)
    return int(done.stdout) if done.returncode == 0 else None


def until(true: Callable[[], object], seconds: float = 30) -> bool:
    """Wait for it, asking not more than half of the time: what we wait for needs the processor, too."""
    end = time.monotonic() + patience(seconds)
    while (asked := time.monotonic()) < end:
        if true():
            return True
        time.sleep(max(0.1, time.monotonic() - asked))
    return False


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """dom0's processors kept busy, by that many at the same priority as the daemon's."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def qemu_log(name: str) -> list[str]:
    """The device model's log, without what our wrapper says, and what QEMU says of every guest of stock xl, too."""
    lines = Path(f"/var/log/xen/qemu-dm-{name}.log").read_text().splitlines()
    return [line for line in lines if not line.startswith("xlplug: ") and not any(words in line for words in _STOCK)]


_STOCK = (
    "declining to handle console type 'xenconsoled'",  # QEMU 10
    "when runstate is INMIGRATE",  # restored
    "fd: migration to a file is deprecated",  # restored, QEMU 10
    "'-mon' is deprecated",  # QEMU 11
)


def guests_of_xen() -> set[int]:
    return set(dump()) - {0}


def installed(*, library: bool = False) -> Iterator[None]:
    """Install, and see that uninstalling leaves nothing; ``library`` as a package puts it there, beside the wrapper."""
    before = files()
    done = sh("xlplug", "hook", "install")
    assert done.returncode == 0, done.stderr
    if library:
        shutil.copy("/stubdom/libxlplug-preload.so", LIBRARY)
    yield
    Path(LIBRARY).unlink(missing_ok=True)
    done = sh("xlplug", "hook", "uninstall")
    assert done.returncode == 0, done.stderr
    assert files() == before


def files() -> list[str]:
    return sh("find", "/usr/local", "/usr/lib/xen-common", "/etc/xen", "-printf", "%p %m\n").stdout.splitlines()
