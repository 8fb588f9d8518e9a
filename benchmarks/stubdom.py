# SPDX-License-Identifier: LGPL-2.1-only
"""``make bench-lab``, second part: from a stubdomain's creation to its grants, by the wrapper and by the watcher.

A thread at real-time priority asks Xen for the stubdomain and sees xenstore change.  dom0 idle, and kept busy; with
stock xl alone as well, to show what each of the two adds to the stubdomain's start.
"""

import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from tests.lab.dom0.hooked import busy
from tests.lab.dom0.vgaguest import FIRMWARE, STUBDOM
from xlplug.hook.device_model import default_path
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.lib import running_version
from xlplug.xen.store import XenStore

VGA = "0000:00:01.0"
CONFIG = (
    'name="bench"\ntype="hvm"\nmemory=64\nvcpus=1\nvnc=0\nvga="none"\non_crash="preserve"\n'
    f'gfx_passthru="igd"\npci=["{VGA}"]\n{FIRMWARE}{STUBDOM}'
)
RUNS = 5
_POLL = 0.004  # seconds between two looks at the stubdomain

#: In place of the QEMU that serves a stubdomain's consoles: `Consoles` answers for it, and libxl unpauses at once.
AT_ONCE = """#!/bin/sh
for word; do
	[ "$previous" = -xen-domid ] && domid=$word
	previous=$word
	case $word in *id=libxl-cmd,*) path=${{word#*,path=}} path=${{path%%,*}} ;; esac
done
[ "$domid" ] || exec {qemu} "$@"
echo "$domid $path" >{fifo}
exec sleep 1000
"""


class Times(NamedTuple):
    """Seconds since Xen has the stubdomain.  0: it was not seen.

    ``named``: libxl has written its number down for the guest, which is what the watcher waits for; ``held``: the watcher has
    paused it; ``granted``; ``let``: its consoles are served, and libxl unpauses it; ``ran``: it has run.
    """

    named: float = 0
    held: float = 0
    granted: float = 0
    let: float = 0
    ran: float = 0


class Observer(threading.Thread):
    """From the creation of a stubdomain until it has run, and is granted where ``granted`` is to be waited for."""

    def __init__(self, *, granted: bool) -> None:
        super().__init__(daemon=True)
        self._granted = granted
        self.ready = threading.Event()
        self.times: Times | None = None

    def run(self) -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))  # of this thread
        with XenCtrl() as xen, XenStore() as store:
            store.watch("/local/domain")
            store.watch("/libxl")
            there = {"0", *store.list("/local/domain")}
            self.ready.set()
            deadline = time.monotonic() + 120
            made, seen = 0.0, Times()
            guest = stubdom = 0
            while time.monotonic() < deadline and not (seen.ran and (seen.granted or not self._granted)):
                if select.select([store.fileno()], [], [], _POLL)[0]:
                    for path in store.changes():
                        number = path.removeprefix("/local/domain/").partition("/")[0]
                        if not guest and number.isdecimal() and number not in there:
                            guest = int(number)
                        if stubdom:
                            seen = self._event(path, store, guest, stubdom, time.monotonic() - made, seen)
                now = time.monotonic()
                if guest and not stubdom and xen.domain_info(guest + 1) is not None:
                    stubdom, made = guest + 1, now  # numbered in the order of their creation
                info = xen.domain_info(stubdom) if stubdom and not seen.ran else None
                if info is not None and info.cpu_time:
                    seen = seen._replace(ran=now - made)
            self.times = seen

    @staticmethod
    def _event(path: str, store: XenStore, guest: int, stubdom: int, since: float, seen: Times) -> Times:
        for field, node, value in (
            ("named", f"/local/domain/{guest}/image/device-model-domid", str(stubdom)),
            ("held", f"/libxl/{stubdom}/xlplug-paused", "paused"),
            ("granted", f"/libxl/{guest}/xlplug/state", "applied"),
            ("let", f"/local/domain/0/device-model/{stubdom}/state", "running"),
        ):
            if path == node and not getattr(seen, field) and store.read(path) == value:
                return seen._replace(**{field: since})
        return seen


@contextmanager
def watcher(folder: Path) -> Iterator[None]:
    """Started as hooks/xlplug-watch.service starts it, as far as it is a matter of time."""
    log = folder / "watch.log"
    with log.open("wb") as file:
        process = subprocess.Popen([*WATCH, "xlplug", "watch"], stderr=file)
        while "watching for domains" not in log.read_text():
            time.sleep(0.1)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


WATCH = ("nice", "-n", "-10")


def loaded(load: str) -> AbstractContextManager[None]:
    """Busy: four endless loops for each of dom0's processors."""
    return busy(4 * (os.cpu_count() or 1)) if load == "busy" else nullcontext()


def once(xl: str, path: Path, *, granted: bool) -> Times:
    """The guest is given up as soon as everything has been seen."""
    observer = Observer(granted=granted)
    observer.start()
    observer.ready.wait()
    process = subprocess.Popen([xl, "create", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        observer.join()
        times = observer.times or Times()
        assert times.ran, "no stubdomain was seen to run"
        return times
    finally:
        process.kill()
        process.wait()
        subprocess.run(["xl", "destroy", path.stem], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:9.0f} ms" if seconds else f"{'-':>12}"


def measure(label: str, xl: str, path: Path, *, granted: bool) -> None:
    found = [once(xl, path, granted=granted) for _ in range(RUNS)]
    for times in found if "-v" in sys.argv else ():
        print(" " * 40, " ".join(_ms(t) for t in times))
    medians = Times(*(statistics.median(side) for side in zip(*found, strict=True)))
    margin = f"{min(t.ran - t.granted for t in found) * 1e3:9.0f} ms" if granted else ""
    late = f"  late: {sum(t.ran <= t.granted for t in found)} of {len(found)}" if granted else ""
    print(f"{label:<40} {' '.join(_ms(t) for t in medians)} {margin}{late}", flush=True)


class Consoles(threading.Thread):
    """Says that a stubdomain's consoles are served, which they are not: the stubdomain runs as early as libxl can let it.

    Nearly as on Qubes OS, whose libxl starts no QEMU for consoles, and the least time that a watcher can be left.
    ``line`` goes into the config.  libxl asks its QEMU a question or two, by QMP.
    """

    _GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._fifo = folder / "fifo"
        os.mkfifo(self._fifo)
        program = folder / "at-once"
        program.write_text(AT_ONCE.format(qemu=default_path(running_version()[:2]), fifo=self._fifo))
        program.chmod(0o755)
        self.line = f'device_model_override="{program}"\n'

    def run(self) -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
        with XenStore() as store:
            while True:
                with self._fifo.open() as fifo:
                    domid, path = fifo.read().split()
                server = socket.socket(socket.AF_UNIX)
                server.bind(path)
                server.listen()
                threading.Thread(target=self._answer, args=(server,), daemon=True).start()
                store.write(f"/local/domain/0/device-model/{domid}/state", "running")

    def _answer(self, server: socket.socket) -> None:
        with server:
            while True:
                connection, _ = server.accept()
                with connection, connection.makefile("rw") as stream:
                    answer: object = self._GREETING
                    command = "greeting"
                    while command:
                        stream.write(f"{json.dumps(answer)}\r\n")
                        stream.flush()
                        command = stream.readline()
                        if command:
                            asked = json.loads(command)
                            answer = {
                                "return": [] if asked["execute"] == "query-chardev" else {},
                                "id": asked.get("id"),
                            }


def main(front_end: str, stock: str) -> None:
    folder = Path(tempfile.mkdtemp())
    path = folder / "bench.cfg"
    path.write_text(CONFIG)
    heads = ("named", "held", "granted", "let run", "ran", "least margin")
    print(f"{'since the creation of a stubdomain':<40} {' '.join(f'{head:>12}' for head in heads)}")
    for load in ("idle", "busy"):
        for mode, xl in (("no xlplug", stock), ("wrapper", front_end), ("watcher", stock)):
            with watcher(folder) if mode == "watcher" else nullcontext():
                if load == "idle":
                    once(xl, path, granted=mode != "no xlplug")  # once for the caches
                with loaded(load):
                    measure(f"{mode}, dom0 {load}", xl, path, granted=mode != "no xlplug")
    consoles = Consoles(folder)
    consoles.start()
    path.write_text(f"{CONFIG}{consoles.line}")
    for load in ("idle", "busy"):
        with watcher(folder), loaded(load):
            measure(f"watcher, no consoles, dom0 {load}", stock, path, granted=True)
