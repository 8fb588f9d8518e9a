# SPDX-License-Identifier: LGPL-2.1-only
"""Starting delegates as an administrator does, and asking Xen what they serve."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.dom0.conftest import sh, xlplug
from xlplug.delegate.state import State, path_of
from xlplug.model.hypervisor import IoreqServerInfo
from xlplug.xen.qdump import parse_servers


class Delegate:
    """A running ``xlplug dm``: its supervisor, and the process that serves."""

    def __init__(self, process: "subprocess.Popen[str]", domid: int) -> None:
        self.process, self.domid = process, domid
        self.said: list[str] = []
        self.complaints: list[str] = []
        self._readers = [
            threading.Thread(target=self._collect, args=(stream, lines), daemon=True)
            for stream, lines in ((process.stdout, self.said), (process.stderr, self.complaints))
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, stream, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def wait_ready(self, seconds: float = 60) -> None:
        self.until(lambda: "ready" in self.said or self.process.poll() is not None, seconds, "is not ready")
        assert "ready" in self.said, "\n".join(self.complaints[-8:])

    def until(self, reached, seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, f"{complaint} within {seconds} s: {self.said} {self.complaints}"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """The process that serves, 0 when it is over."""
        state = State.read(path_of(self.domid))
        return 0 if state is None else state.pid

    def stop(self, seconds: float = 20) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        for reader, stream in zip(self._readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join(5)
            if stream is not None and not reader.is_alive():
                stream.close()
        return status


@contextmanager
def delegate(domid: int, *devices: str, wait: bool = True) -> Iterator[Delegate]:
    """``xlplug dm``, ready; stopped afterwards, if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xlplug", "dm", str(domid), *devices],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started = Delegate(process, domid)
    try:
        if wait:
            started.wait_ready()
        yield started
    finally:
        started.stop()


@contextmanager
def adopting(domid: int) -> Iterator[Delegate]:
    """``xlplug dm --adopt``, ready; stopped afterwards."""
    with delegate(domid, "--adopt") as made:
        yield made


def servers(domid: int) -> tuple[IoreqServerInfo, ...]:
    """A domain's ioreq servers, from Xen's dump through xl."""
    for _ in range(5):
        assert sh("xl", "debug-keys", "q").returncode == 0
        try:
            return parse_servers(sh("xl", "dmesg").stdout).get(domid, ())
        except ValueError:  # another line came in between
            continue
    raise AssertionError("no whole dump")


def verify(domid: int) -> tuple[int, dict[str, Any]]:
    """``xlplug verify``: status and report."""
    done = xlplug("verify", str(domid), "--format", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
