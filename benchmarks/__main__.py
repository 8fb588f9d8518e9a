# SPDX-License-Identifier: LGPL-2.1-only
"""``make bench``: what start-up, parsing and planning cost, as ratios measured side by side in one run.

Each ratio's two sides are timed in turn (A B A B …) and the medians compared, because machines are noisy.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.abi import oracle  # noqa: E402 - the path comes first
from xlplug.config import from_xl, language  # noqa: E402
from xlplug.dom0 import recording  # noqa: E402
from xlplug.execute import grants  # noqa: E402
from xlplug.model.addr import Domid  # noqa: E402
from xlplug.model.occasion import BY_HAND, Who  # noqa: E402
from xlplug.plan import build  # noqa: E402
from xlplug.xen.in_memory import MemStore, MemXen  # noqa: E402

RECORDED = ROOT / "tests" / "recorded" / "domains" / "igd-laptop-stubdom"
#: The system's own interpreter where there is one: a virtual environment or a developer's installation starts more slowly,
#: which would flatter the ratios.
_BASE = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = next(str(p) for p in (Path("/usr/bin/python3.11"), Path("/usr/bin/python3.13"), _BASE) if p.exists())
XLPLUG = [PYTHON, "-m", "xlplug"]

#: 40 lines such as administrators write.
TYPICAL = (
    b"# a guest with the host's graphics\n"
    b'name = "gpu"\ntype = "hvm"\nuuid = "5f0c2c8e-6a3d-4b2e-9d39-2f1d7b1c0a77"\nmemory = 4096\nmaxmem = 4096\nvcpus = 4\n'
    b'cpus = "2-5"\nvga = "none"\nvnc = 0\nsdl = 0\nserial = "pty"\nboot = "cd"\nacpi = 1\napic = 1\npae = 1\nhpet = 1\n'
    b'viridian = 1\nusb = 1\nusbdevice = ["tablet"]\nlocaltime = 0\ntimer_mode = 1\nxen_platform_pci = 1\n'
    b'on_poweroff = "destroy"\non_reboot = "restart"\non_crash = "restart"\n\n# disks and network\n'
    b"disk = [ 'phy:/dev/vg/gpu,xvda,w', 'file:/srv/cd.iso,hdc:cdrom,r' ]\n"
    b"vif = [ 'mac=00:16:3e:00:00:01,bridge=xenbr0,model=e1000' ]\n\n# the display\n"
    b'gfx_passthru = "igd"\npci_permissive = 0\npci = [ "00:02.0,permissive=1", "00:1f.3" ]\n'
    b'device_model_version = "qemu-xen"\ndevice_model_stubdomain_override = 1\nstubdomain_memory = 256\n'
    b'stubdomain_kernel = "/usr/lib/xen/boot/stubdom"\nxlplug_map_legacy = 0\n'
)


def process(command: list[str], environment: dict[str, str] | None = None) -> Callable[[], float]:
    """A whole process's wall time in seconds."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True, env=environment)
        return time.perf_counter() - began

    return once


def ratio(one: Callable[[], float], two: Callable[[], float], runs: int) -> tuple[float, float, float]:
    """Medians of both sides, and of the ratios pair by pair."""
    one(), two()
    pairs = [(one(), two()) for _ in range(runs)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def line(what: str, mine: float, other: float, times: float, goal: str) -> None:
    print(f"{what:<58} {mine * 1e3:9.3f} ms {other * 1e3:9.3f} ms {times:8.2f} x  {goal}", flush=True)


def startup() -> None:
    bare = process([PYTHON, "-c", "pass"])
    for what, command, goal in (
        ("xlplug --help", [*XLPLUG, "--help"], "goal 3.5"),
        ("xlplug grant on a recorded host", [*XLPLUG, "grant", "7", "--recorded", str(RECORDED)], "goal 4"),
    ):
        line(f"{what} / python3 -c pass", *ratio(process(command), bare, 30), goal)


def front_end() -> None:
    """``hooks/xl`` and ``xlplug create`` for a config that needs nothing, up to the real xl, which is /bin/true here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = TYPICAL.replace(b'gfx_passthru = "igd"', b"gfx_passthru = 0")
        (folder / "plain.cfg").write_bytes(plain)
        shutil.copy("/bin/true", folder / "xl")
        program = folder / "xlplug"
        program.write_text(f'#!/bin/sh\nexec {PYTHON} -m xlplug "$@"\n')
        program.chmod(0o755)
        environment = {**os.environ, "PATH": f"{folder}:/usr/bin:/bin"}
        command = [str(ROOT / "hooks" / "xl"), "create", str(folder / "plain.cfg")]
        bare = process([PYTHON, "-c", "pass"])
        line(
            "xl create, nothing needed, to xl / python3 -c pass",
            *ratio(process(command, environment), bare, 30),
            "goal 4",
        )
        command[1:] = ["list"]
        shell = process(["/bin/sh", "-c", "exit"])
        line("xl list, to xl / sh -c exit", *ratio(process(command, environment), shell, 30), "")


def libxlu(data: bytes) -> Callable[[], float] | None:
    """libxlutil's best time for one parse, in its own process, or None when it is not here."""
    if oracle.binary() is None:
        return None
    return lambda: int(oracle.ask([("t", data)])[0]) / 1e9


def ours(data: bytes, runs: int) -> Callable[[], float]:
    def once() -> float:
        best = float("inf")
        for _ in range(runs):
            began = time.perf_counter()
            language.parse(data)
            best = min(best, time.perf_counter() - began)
        return best

    return once


def parser() -> None:
    lines = b"".join(b'name%d = "value %d"\n' % (i, i) for i in range(10_000))
    appends = b"a=[]\n" + b'a += [ "x" ]\n' * 10_000
    for what, data, runs, goal in (
        ("parse a typical 40-line config / libxlutil", TYPICAL, 400, "goal 8"),
        ("parse 10,000 lines / libxlutil", lines, 3, ""),
        ("parse 10,000 += / libxlutil", appends, 3, "goal 1"),
    ):
        theirs = libxlu(data)
        if theirs is None:
            print(f"{what}: libxen-dev is not installed, not measured")
            continue
        line(what, *ratio(ours(data, runs), theirs, 7), goal)
    for size in (1_000, 100_000):
        data = b"".join(b'name%d = "value"\n' % i for i in range(size))
        print(f"parse {size:>7,} lines: {ours(data, 3)() / size * 1e6:6.2f} us a line (linear when both are the same)")


def domains(count: int = 10_000) -> None:
    """Plan and apply in memory, one domain after another; memory must not grow with the count."""
    recorded = recording.load_domain(str(RECORDED))
    config = from_xl.from_settings(language.parse(recorded.config or b""))
    assert recorded.stubdom is not None

    def one() -> None:
        xen, store = MemXen(), MemStore()
        xen.add_domain(recorded.target)
        xen.add_domain(recorded.stubdom)
        plan = build(config, recorded.host, Who(Domid(7), Domid(8)), BY_HAND)
        assert len(grants.grant(plan, xen, store, str).done) == 8

    for _ in range(100):
        one()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    for _ in range(count):
        one()
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"plan and apply {count:,} recorded domains in memory: {count / took:,.0f} domains/s")
    print(f"peak memory after 100 of them {before / 1024:.1f} MiB, after {count:,} {after / 1024:.1f} MiB")


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run([PYTHON, "-m", "compileall", "-q", "xlplug"], cwd=ROOT, check=True)
    print(f"python: {PYTHON}")
    print(f"{'':<58} {'ours':>12} {'other':>12} {'ratio':>10}")
    startup()
    front_end()
    parser()
    domains()
