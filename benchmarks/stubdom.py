# SPDX-License-Identifier: LGPL-2.1-only
"""``make bench-lab``, second part: from a stubdomain's creation to its grants, by the wrapper and by the watcher.

A thread of this process sees xenstore change; Xen tells when the stubdomain first runs.  dom0 idle, and kept busy.
"""

import os
import select
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab.dom0.vgaguest import FIRMWARE, STUBDOM
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.store import XenStore

VGA = "0000:00:01.0"
CONFIG = (
    'name="bench"\ntype="hvm"\nmemory=64\nvcpus=1\nvnc=0\nvga="none"\non_crash="preserve"\n'
    f'gfx_passthru="igd"\npci=["{VGA}"]\n{FIRMWARE}{STUBDOM}'
)
RUNS = 3


class Times(NamedTuple):
    """Seconds since the stubdomain is there: its grants are made, and it runs for the first time."""

    granted: float
    ran: float


class Observer(threading.Thread):
    """From the first sign of a new stubdomain until it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ready = threading.Event()
        self.times: Times | None = None

    def run(self) -> None:
        with XenCtrl() as xen, XenStore() as store:
            store.watch("/local/domain")
            store.watch("/libxl")
            there = set(store.list("/local/domain"))
            made = granted = 0.0
            stubdom = 0
            self.ready.set()
            deadline = time.perf_counter() + 120
            while time.perf_counter() < deadline:
                if select.select([store.fileno()], [], [], 0.005 if granted else 1)[0]:
                    now = time.perf_counter()
                    for path in store.changes():
                        parts = path.split("/")
                        if (
                            not made
                            and path.endswith("/target")
                            and parts[1:3] == ["local", "domain"]
                            and parts[3] not in there
                        ):
                            stubdom, made = int(parts[3]), now
                        if path.endswith("/xlplug/state") and store.read(path) == "applied":
                            granted = granted or now
                if made and granted:
                    info = xen.domain_info(stubdom)
                    if info is not None and info.cpu_time:
                        self.times = Times(granted - made, time.perf_counter() - made)
                        return


@contextmanager
def watcher(folder: Path) -> Iterator[None]:
    with (folder / "watch.log").open("wb") as log:
        process = subprocess.Popen(["xlplug", "watch"], stderr=log)
        while "watching for domains" not in (folder / "watch.log").read_text():
            time.sleep(0.1)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def busy() -> Iterator[None]:
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextmanager
def nothing() -> Iterator[None]:
    yield


def once(xl: str, path: Path) -> Times:
    observer = Observer()
    observer.start()
    observer.ready.wait()
    try:
        subprocess.run([xl, "create", str(path)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        observer.join(120)
        assert observer.times is not None, "no grants were seen"
        return observer.times
    finally:
        subprocess.run(["xl", "destroy", path.stem], check=True)


def main(front_end: str, stock: str) -> None:
    folder = Path(tempfile.mkdtemp())
    path = folder / "bench.cfg"
    path.write_text(CONFIG)
    print(f"{'from the creation of a stubdomain':<58} {'granted':>12} {'it runs':>12} {'margin':>12}")
    for load, loaded in (("idle", nothing), ("busy", busy)):
        for mode, xl, started in (("wrapper", front_end, nothing()), ("watcher", stock, watcher(folder))):
            with started:
                once(xl, path)
                with loaded():
                    found = [once(xl, path) for _ in range(RUNS)]
            granted, ran = (statistics.median(side) for side in zip(*found, strict=True))
            least = min(ran - granted for granted, ran in found)
            print(
                f"{f'{mode}, dom0 {load}':<58} {granted * 1e3:9.0f} ms {ran * 1e3:9.0f} ms {least * 1e3:9.0f} ms at least",
                flush=True,
            )
