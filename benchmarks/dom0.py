# SPDX-License-Identifier: LGPL-2.1-only
"""``make bench-lab``: what the hook adds to ``xl create``, the wrapper's own time, and populating, in the lab's dom0.

Everything is emulated there, so that only the ratios mean anything: both sides of each are timed in turn.
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

from benchmarks import populate, stubdom
from benchmarks.__main__ import line, ratio
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


def wrapper(config: str, domid: int) -> Callable[[], float]:
    """The wrapper from its start to exec, with /bin/true in the device model's place."""
    data = config.encode()
    name, value = offer(Handover(data, "bench.cfg", (), "/bin/true", freeze(parse(data, "bench.cfg"))))
    environment = {**os.environ, name: value}
    fd = int(value.split(",")[0])

    def once() -> float:
        quiet("xlplug", "revoke", str(domid))
        began = time.perf_counter()
        quiet(WRAPPER, "-xen-domid", str(domid), env=environment, pass_fds=(fd,))
        return time.perf_counter() - began

    return once


def process(*argv: str) -> Callable[[], float]:
    def once() -> float:
        began = time.perf_counter()
        quiet(*argv)
        return time.perf_counter() - began

    return once


def front_end(path: Path, folder: Path) -> Callable[[], float]:
    """``xl create`` from its start to the real xl, in whose place stands /bin/true."""
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def once() -> float:
        began = time.perf_counter()
        quiet(FRONT_END, "create", "-p", str(path), env=environment)
        return time.perf_counter() - began

    return once


def configs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each kind of config in turn, always in the same file: the domain is called like it."""
    path = folder / "bench.cfg"
    for what, text in NEEDS.items():
        path.write_text(f'name="bench"\n{BASE}{text}')
        yield what, path


def starts(stock: str, folder: Path) -> None:
    """The front end and the wrapper, each from its start to exec."""
    bare = process(sys.executable, "-c", "pass")
    true = folder / "true"
    true.mkdir()
    shutil.copy("/bin/true", true / "xl")
    for what, path in configs(folder):
        line(f"front end up to xl, {what}", *ratio(front_end(path, true), bare, RUNS), GOALS[what][0])
    for what, path in configs(folder):
        quiet(stock, "create", "-p", str(path))
        domid = int(subprocess.run([stock, "domid", "bench"], capture_output=True, text=True, check=True).stdout)
        line(f"wrapper up to exec, {what}", *ratio(wrapper(path.read_text(), domid), bare, RUNS), GOALS[what][1])
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


def main(*parts: str) -> None:
    """All parts, or those named: starts, creations, populate, stubdom."""
    assert VARIABLE not in os.environ
    parts = parts or ("starts", "creations", "populate", "stubdom")
    subprocess.run(["modprobe", "xen-pciback"], check=False)
    subprocess.run(["xl", "pci-assignable-add", VGA], check=True, capture_output=True)
    quiet("xlplug", "hook", "install")
    stock = str(shutil.which("xl"))
    folder = Path(tempfile.mkdtemp())
    print(f"{'in the lab; starts: / python3 -c pass':<58} {'ours':>12} {'other':>12} {'ratio':>10}")
    if "starts" in parts:
        starts(stock, folder)
    if "creations" in parts:
        creations(folder, stock)
    if "populate" in parts:
        path = folder / "bench.cfg"
        path.write_text(f'name="bench"\n{BASE}')
        populate.main(stock, path)
    if "stubdom" in parts:
        stubdom.main(FRONT_END, stock)
    quiet("xlplug", "hook", "uninstall")


if __name__ == "__main__":
    main(*sys.argv[1:])
