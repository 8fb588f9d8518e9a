# SPDX-License-Identifier: LGPL-2.1-only
"""``make bench``: what start-up, parsing and planning cost, as ratios measured side by side in one run.

Each ratio's two sides are timed in turn (A B A B …) and the medians compared, because machines are noisy.  Of processes it is
the processor time that is compared, their own and that of what they start.
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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.abi import oracle  # noqa: E402 - the path comes first
from xlplug.config import from_xl, language  # noqa: E402
from xlplug.config.domain import DomainConfig  # noqa: E402
from xlplug.dom0 import recording  # noqa: E402
from xlplug.execute import grants  # noqa: E402
from xlplug.model.addr import Domid  # noqa: E402
from xlplug.model.hypervisor import DomainInfo  # noqa: E402
from xlplug.model.occasion import BY_HAND, Who  # noqa: E402
from xlplug.model.rangeset import Range  # noqa: E402
from xlplug.plan import build  # noqa: E402
from xlplug.watch.guests import Watcher, World  # noqa: E402
from xlplug.xen.in_memory import MemStore, MemXen  # noqa: E402

RECORDED = ROOT / "tests" / "recorded" / "domains" / "igd-laptop-stubdom"
#: The system's own interpreter where there is one: a virtual environment or a developer's installation starts more slowly,
#: which would flatter the ratios.
_BASE = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = next(str(p) for p in (Path("/usr/bin/python3.11"), Path("/usr/bin/python3.13"), _BASE) if p.exists())
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


#: What is loaded on the way of a domain with a display, where Xen runs: the limit of what `benchmarks.dom0` measures there.
LOADED = {
    "the front end": "xlplug.hook.create xlplug.commands.common xlplug.config.language xlplug.config.from_xl xlplug.xen.ctrl "
    "xlplug.xen.store xlplug.dom0.snapshot xlplug.dom0.pci xlplug.dom0.os_release xlplug.plan "
    "xlplug.execute.sole_vga xlplug.dom0.domains",
    "the wrapper": "xlplug.hook.wrapper xlplug.dom0.frozen xlplug.dom0.lock xlplug.xen.ctrl xlplug.xen.store xlplug.dom0.domains "
    "xlplug.dom0.snapshot xlplug.dom0.pci xlplug.dom0.os_release xlplug.execute.grants xlplug.plan xlplug.delegate.record",
}


def process(command: list[str], environment: dict[str, str] | None = None) -> Callable[[], float]:
    """The processor time, in seconds, of a process and of all that it starts: load from elsewhere changes it little."""
    null = os.open(os.devnull, os.O_RDWR)

    def once() -> float:
        pid = os.posix_spawn(
            command[0], command, os.environ if environment is None else environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)],
        )  # fmt: skip
        _, status, usage = os.wait4(pid, 0)
        assert status == 0, command
        return usage.ru_utime + usage.ru_stime

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


def installed(folder: Path) -> Path:
    """The front end and the starter, as ``xlplug hook install`` writes them for `PYTHON`, behind an xl that is /bin/true."""
    code = "import os, _cffi_backend; print(os.path.dirname(_cffi_backend.__file__))"
    cffi = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    starter, front_end = folder / "xlplug", folder / "front" / "xl"
    text = (ROOT / "hooks" / "xlplug").read_text().replace("#!/usr/bin/python3", f"#!{PYTHON}")
    starter.write_text(text.replace("FOLDERS = []", f"FOLDERS = {[str(ROOT), cffi]!r}"))
    front_end.parent.mkdir()
    front_end.write_text((ROOT / "hooks" / "xl").read_text().replace("\nxlplug=xlplug\n", f"\nxlplug={starter}\n"))
    for program in (starter, front_end):
        program.chmod(0o755)
    (folder / "bin").mkdir()
    shutil.copy("/bin/true", folder / "bin" / "xl")
    return starter


def startup(starter: Path) -> None:
    bare = process([PYTHON, "-c", "pass"])
    line("python3 -IS -c pass / python3 -c pass", *ratio(process([PYTHON, "-IS", "-c", "pass"]), bare, 30), "the limit")
    for what, words, goal in (
        ("xlplug --help", ["--help"], "goal 1.3"),
        ("xlplug grant on a recorded host", ["grant", "7", "--recorded", str(RECORDED)], "goal 2.5"),
    ):
        line(f"{what} / python3 -c pass", *ratio(process([str(starter), *words]), bare, 30), goal)
    folders = next(text for text in starter.read_text().splitlines() if text.startswith("FOLDERS ="))
    for what, modules in LOADED.items():
        code = f"import gc, sys; gc.disable(); {folders}; sys.path += FOLDERS; from xlplug.dom0 import lean_import\n"
        code += "lean_import.install(); from xlplug.model import lean_typing; lean_typing.install()\n"
        code += f"import {modules.replace(' ', ', ')}"
        command = [PYTHON, "-IS", "-c", code]
        line(f"loading what {what} needs for a display", *ratio(process(command), bare, 30), "")


def front_end(folder: Path) -> None:
    """``hooks/xl`` up to the real xl: with no reason to ask Python, with one that turns out to be none, and for ``list``."""
    plain = TYPICAL.replace(b'gfx_passthru = "igd"\n', b"").replace(b"xlplug_map_legacy = 0\n", b"")
    (folder / "plain.cfg").write_bytes(plain)
    (folder / "off.cfg").write_bytes(plain + b"gfx_passthru = 0\n")
    environment = {**os.environ, "PATH": f"{folder}/front:{folder}/bin:/usr/bin:/bin"}
    xl, bare = process([str(folder / "bin" / "xl")]), process([PYTHON, "-c", "pass"])
    for what, words in (("xl list", ["list"]), ("xl create, no word of ours", ["create", str(folder / "plain.cfg")])):
        mine, theirs, _ = ratio(process([str(folder / "front" / "xl"), *words], environment), xl, 50)
        goal = "goal 2 ms" if "create" in what else ""
        print(f"{f'{what}, through the front end / xl itself':<58} {mine * 1e3:9.3f} ms {theirs * 1e3:9.3f} ms", end="")
        print(f"   added {(mine - theirs) * 1e3:.2f} ms  {goal}", flush=True)
    command = [str(folder / "front" / "xl"), "create", str(folder / "off.cfg")]
    line(
        "xl create, gfx_passthru = 0, to xl / python3 -c pass",
        *ratio(process(command, environment), bare, 30),
        "goal 2",
    )


def scale() -> None:
    """Planning with as many port ranges as there can be, and an event of the watcher with 2 and with 500 domains."""
    config = DomainConfig(type="hvm", ioports=tuple(Range(port, port + 1) for port in range(0, 0x10000, 2)))
    host = recording.load_domain(str(RECORDED)).host
    began = time.process_time()
    build(config, host)
    print(f"plan 32,768 port ranges: {time.process_time() - began:.2f} s of CPU (goal 1)")
    for count in (2, 500):
        print(f"one event of the watcher with {count:>3} domains: {watched(count) * 1e3:.2f} ms")


def watched(count: int) -> float:
    """Seconds for an event that concerns no domain, in memory: without what xenstored and Xen take for each question."""
    xen, store = MemXen(), MemStore()
    nothing: Any = lambda *arguments: None  # noqa: E731
    world = World(
        xen,
        store,
        nothing,
        nothing,
        nothing,
        nothing,
        lambda info: DomainConfig(),
        nothing,
        nullcontext,
        nothing,
        nothing,
    )
    for domid in range(1, count + 1):
        xen.add_domain(DomainInfo(domid, uuid=f"u{domid}"))
        store.write(f"/local/domain/{domid}/vm", f"/vm/u{domid}")
        store.write(f"/local/domain/{domid}/name", f"g{domid}")
    watcher = Watcher(world)
    watcher.look()
    return statistics.median(timed(watcher.look) for _ in range(20))


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


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


def fleet(folder: Path, hosts: int = 200, each: int = 50) -> None:
    """``xlplug audit`` of 10,000 domains, on the clock, because both processors are to be used; and its largest process.

    All of them have a display, and those of a host conflict: most fleets are quicker.
    """
    host = (ROOT / "tests" / "recorded" / "hosts" / "igd-laptop.json").read_text()
    for number in range(hosts):
        place = folder / f"host{number}"
        place.mkdir(parents=True)
        (place / "host.json").write_text(host.replace('"name": "igd-laptop"', f'"name": "host{number}"', 1))
        for guest in range(each):
            (place / f"g{guest}.cfg").write_bytes(TYPICAL.replace(b'"gpu"', b'"g%d"' % guest))
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "xlplug", "audit", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert f"domains: {hosts * each}," in done.stdout, done.stderr
    assert "unreadable: 0," in done.stdout
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"audit {hosts * each:,} domains on {hosts} hosts: {took:.2f} s on the clock (goal 5), {cpu:.2f} s of CPU",
        end="",
    )
    print(f" on {os.cpu_count()} processors, largest process {after.ru_maxrss / 1024:.0f} MiB")


def domains(count: int = 10_000) -> None:
    """Plan and apply in memory, one domain after another; memory must not grow with the count."""
    recorded = recording.load_domain(str(RECORDED))
    config = from_xl.from_settings(language.parse(recorded.config or b""))
    assert recorded.stubdom is not None

    def one() -> None:
        xen, store = MemXen(), MemStore()
        xen.add_domain(recorded.target)
        xen.add_domain(recorded.stubdom)
        for domid in (7, 8):
            store.write(f"/local/domain/{domid}", "")
        store.write("/local/domain/8/target", "7")
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
    with tempfile.TemporaryDirectory() as name:
        startup(installed(Path(name)))
        front_end(Path(name))
        fleet(Path(name) / "fleet")
    parser()
    scale()
    domains()
