# SPDX-License-Identifier: LGPL-2.1-only
"""``make bench-lab``: what the hook adds to ``xl create``, the wrapper's own time, and populating, in the lab's dom0.

Everything is emulated there, so that only the ratios mean anything: both sides of each are timed in turn.  Of starts both
the time on the clock and the processor time are compared; what else the host does disturbs the second less.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import populate, stubdom
from xlplug.dom0.find_config import parse
from xlplug.dom0.frozen import freeze
from xlplug.dom0.handover import VARIABLE, Handover, offer

VGA = "0000:00:01.0"
FRONT_END, WRAPPER = "/usr/local/sbin/xl", "/usr/local/lib/xlplug/device-model"
BASE = 'type="hvm"\nmemory=64\nvcpus=1\nvnc=0\nvga="none"\n'
NEEDS = {
    "a config that needs nothing": "",
    "a config with ioports=": 'ioports=["2f8-2ff"]\n',
    "a config with a display": f'gfx_passthru="igd"\npci=["{VGA}"]\n',
}


#: For the front end, and for the wrapper: times a bare interpreter's start.
GOALS = {
    "a config that needs nothing": ("", ""),
    "a config with ioports=": ("goal 2", "goal 2"),
    "a config with a display": ("goal 2", "goal 2.5"),
}
RUNS = 10


def quiet(*argv: str, **options: object) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]


def creation(xl: str, path: Path) -> Callable[[], float]:
    """``xl create -p`` alone; what is made is destroyed outside the time."""

    def once() -> float:
        began = time.perf_counter()
        quiet(xl, "create", "-p", str(path))
        took = time.perf_counter() - began
        quiet("xl", "destroy", path.stem)
        return took

    return once


class Spent(NamedTuple):
    """Seconds, of one process and all that it starts."""

    clock: float
    processor: float


def process(*argv: str, environment: dict[str, str] | None = None) -> Spent:
    """Run it, with nothing to read and nobody to write to."""
    began = time.perf_counter()
    pid = os.posix_spawn(
        argv[0], argv, os.environ if environment is None else environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)],
    )  # fmt: skip
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, argv
    return Spent(time.perf_counter() - began, usage.ru_utime + usage.ru_stime)


def bare() -> Spent:
    return process(sys.executable, "-c", "pass")


def wrapper(config: str, domid: int) -> Callable[[], Spent]:
    """The wrapper from its start to exec, with /bin/true in the device model's place."""
    data = config.encode()
    name, value = offer(Handover(data, "bench.cfg", (), "/bin/true", freeze(parse(data, "bench.cfg"))))

    def once() -> Spent:
        quiet("xlplug", "revoke", str(domid))
        return process(WRAPPER, "-xen-domid", str(domid), environment={**os.environ, name: value})

    return once


def front_end(path: Path, folder: Path) -> Callable[[], Spent]:
    """``xl create`` from its start to the real xl, in whose place stands /bin/true."""
    # Behind the front end, as the real one is: a program before it in PATH would be read, which a shell does byte by byte.
    environment = {**os.environ, "PATH": f"{Path(FRONT_END).parent}:{folder}:{os.environ['PATH']}"}
    return lambda: process(FRONT_END, "create", "-p", str(path), environment=environment)


def compare(what: str, ours: Callable[[], Spent], goal: str = "") -> None:
    """Against a bare interpreter, in turn; of each kind of time the ratio of the medians, and that of the shortest runs."""
    ours(), bare()
    pairs = [(ours(), bare()) for _ in range(RUNS)]
    text = ""
    for kind in range(len(Spent._fields)):
        mine, theirs = [a[kind] for a, _ in pairs], [b[kind] for _, b in pairs]
        median, shortest = statistics.median(mine) / statistics.median(theirs), min(mine) / min(theirs)
        text += f" {statistics.median(mine) * 1e3:8.0f} ms {median:5.2f} x {shortest:5.2f} x"
    print(f"{what:<52}{text}  {goal}", flush=True)


def configs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each kind of config in turn, always in the same file: the domain is called like it."""
    path = folder / "bench.cfg"
    for what, text in NEEDS.items():
        path.write_text(f'name="bench"\n{BASE}{text}')
        yield what, path


def starts(stock: str, folder: Path) -> None:
    """The front end and the wrapper, each from its start to exec."""
    true = folder / "true"
    true.mkdir()
    shutil.copy("/bin/true", true / "xl")
    print(
        f"{'starts, / python3 -c pass':<52} {'clock':>11} {'ratio':>7} {'of min.':>7} {'processor':>11} {'ratio':>7} {'of min.':>7}"
    )
    compare("python3 -IS -c pass", lambda: process(sys.executable, "-IS", "-c", "pass"), "the limit")
    compare("sh and grep", lambda: process("/bin/sh", "-c", "grep -q root /etc/passwd; exit 0"))
    for what, path in configs(folder):
        compare(f"front end up to xl, {what}", front_end(path, true), GOALS[what][0])
    for what, path in configs(folder):
        quiet(stock, "create", "-p", str(path))
        domid = int(subprocess.run([stock, "domid", "bench"], capture_output=True, text=True, check=True).stdout)
        compare(f"wrapper up to exec, {what}", wrapper(path.read_text(), domid), GOALS[what][1])
        quiet(stock, "destroy", "bench")


def creations(folder: Path, stock: str) -> None:
    """What the hook adds to a whole ``xl create``."""
    for what, path in configs(folder):
        mine, other = creation(FRONT_END, path), creation(stock, path)
        mine(), other()
        pairs = [(mine(), other()) for _ in range(5)]
        added = statistics.median(a - b for a, b in pairs)
        a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(
            f"{f'xl create, {what}':<58} {a * 1e3:9.0f} ms {b * 1e3:9.0f} ms   added {added * 1e3:.0f} ms", flush=True
        )


def populated(stock: str, folder: Path, when: str) -> None:
    path = folder / "bench.cfg"
    path.write_text(f'name="bench"\n{BASE}')
    populate.main(stock, path, when)


def main(*parts: str) -> None:
    """All parts, or those named: starts, creations, populate, stubdom."""
    assert VARIABLE not in os.environ
    parts = parts or ("starts", "creations", "populate", "stubdom")
    subprocess.run(["modprobe", "xen-pciback"], check=False)
    subprocess.run(["xl", "pci-assignable-add", VGA], check=True, capture_output=True)
    quiet("xlplug", "hook", "install")
    stock = str(shutil.which("xl"))
    folder = Path(tempfile.mkdtemp())
    print("in the lab")
    if "populate" in parts:  # first, right after boot, and again once the host has been in use
        populated(stock, folder, "right after boot")
    if "starts" in parts:
        starts(stock, folder)
    if "creations" in parts:
        creations(folder, stock)
    if "populate" in parts:
        populated(stock, folder, "later")
    if "stubdom" in parts:
        stubdom.main(FRONT_END, stock)
    quiet("xlplug", "hook", "uninstall")


if __name__ == "__main__":
    main(*sys.argv[1:])
