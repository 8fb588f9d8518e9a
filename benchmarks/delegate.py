# SPDX-License-Identifier: LGPL-2.1-only
"""What a delegate costs: accesses a second, beside QEMU's emulation of such a device, direct mapping, and no device at all.

In the lab: ``make bench-delegate`` (``XEN=4.20`` for one version).  All four are in one guest at one time, and the rounds
alternate between them, so that a busy machine disturbs all of them alike.  The processor is emulated: ratios mean something,
numbers do not.

The same two kinds of device everywhere: edu for memory and config space, a network card for ports.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.lab.dom0.conftest import BASE, sh
from tests.lab.dom0.delegates import Delegate, delegate
from tests.lab.dom0.puppet import EDU, EDU2, HVM, NE2K, RTL8139, Device, Puppet, assignable

ROUNDS, SECONDS = 7, 0.4
MOVE_TO = 0xE0000000  #: moves go back and forth between here and 1 MiB above


class Place(NamedTuple):
    """Where the guest has one of the four: the slots of edu and of the card, and the addresses of their BARs."""

    name: str
    memory_slot: int
    memory: int
    port_slot: int
    ports: int


PLACES = (
    Place("delegate", 0x1D, 0xF0000000, 0x1B, 0xC100),
    Place("QEMU's emulation", 0x1C, 0xF0100000, 0x1A, 0xC200),
    Place("mapped directly", 0x18, 0xF0200000, 0x17, 0xC300),
    Place("nobody there", 0x16, 0xF0300000, 0x15, 0xC400),
)
CONFIG = f"""name="bench"
{BASE}{HVM}pci=["{EDU2}@18", "{RTL8139}@17"]
device_model_args_hvm=["-device","edu,addr=1c.0","-device","ne2k_pci,addr=1a.0,romfile="]
"""


def timed(puppet: Puppet, operation: str, address: int, value: int, count: int) -> float:
    """Seconds that so many accesses take, without what giving a command to the guest takes."""
    began = time.monotonic()
    puppet.do("nothing", address, value, count)
    command = time.monotonic()
    puppet.do(operation, address, value, count)
    return max(time.monotonic() - command - (command - began), 1e-9)


def rates(puppet: Puppet, what: list[Callable[[int], float]]) -> list[list[float]]:
    """Accesses a second of each, round by round.  ``what`` takes a number of accesses and returns seconds."""
    counts = []
    for one in what:
        count = 100
        while (seconds := one(count)) < SECONDS / 4:
            count *= 8
        counts.append(max(int(count * SECONDS / seconds), 10))
    found: list[list[float]] = [[] for _ in what]
    for _ in range(ROUNDS):
        for one, count, rounds in zip(what, counts, found, strict=True):
            rounds.append(count / one(count))
    return found


def number(value: float) -> str:
    """Three digits that mean something."""
    digits = max(len(str(int(value))) - 3, 0)
    return f"{round(value, -digits):,.0f}"


def line(what: str, found: list[list[float]]) -> str:
    """A row of docs/delegation.md's table: the median of the rounds, and the slowest and fastest of them."""
    cells = [f"{number(statistics.median(r))} ({number(min(r))} to {number(max(r))})" for r in found]
    return f"| {what} | {' | '.join(cells)} |"


def place_all(puppet: Puppet) -> None:
    for one in PLACES[:3]:
        device, card = Device(puppet, one.memory_slot), Device(puppet, one.port_slot)
        device.place(0, one.memory)
        device.decode(2)
        assert puppet.read(one.memory) == 0x010000ED, f"{one.name} is not edu"
        card.place(0, one.ports)
        card.decode(1)
        assert puppet.port(one.ports) != 0xFF, f"{one.name} has no port"


def measure(puppet: Puppet) -> None:
    def accesses(operation: str, at: Callable[[Place], int], slot: bool = False) -> list[Callable[[int], float]]:
        def maker(one: Place) -> Callable[[int], float]:
            def run(count: int) -> float:
                if slot:
                    puppet.do("out32", 0xCF8, 0x80000000 | one.memory_slot << 11)
                return timed(puppet, operation, at(one), 0, count)

            return run

        return [maker(one) for one in PLACES]

    def moves(one: Place) -> Callable[[int], float]:
        def run(count: int) -> float:
            puppet.do("out32", 0xCF8, 0x80000000 | one.memory_slot << 11 | 0x10)
            return timed(puppet, "moves32", MOVE_TO, MOVE_TO + (1 << 20), max(count // 2, 1))

        return run

    print(f"| | {' | '.join(one.name for one in PLACES)} |\n|---|{'---|' * len(PLACES)}")
    print(line("memory read", rates(puppet, accesses("reads32", lambda one: one.memory))))
    print(line("memory write", rates(puppet, accesses("writes32", lambda one: one.memory + 4))))
    print(line("port read", rates(puppet, accesses("ins_each32", lambda one: one.ports + 0x10))))
    print(line("config read", rates(puppet, accesses("ins_each32", lambda one: 0xCFC, slot=True))))
    print(line("BAR moves", rates(puppet, [moves(one) for one in PLACES])), flush=True)


def resident(pid: int) -> float:
    """MiB of memory that a process has to itself."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(row.split()[1]) for row in text.splitlines() if row.startswith("Private")) / 1024


def footprint(served: Delegate, seconds: float) -> None:
    print(
        f"ready after {seconds:.1f} s; memory of its own: supervisor {resident(served.process.pid):.1f} MiB,"
        f" process that serves {resident(served.pid):.1f} MiB"
    )
    before = os.times()
    idle = [sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            for pid in (served.process.pid, served.pid)]  # fmt: skip
    time.sleep(20)
    after = [sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
             for pid in (served.process.pid, served.pid)]  # fmt: skip
    ticks = os.sysconf("SC_CLK_TCK")
    wall = os.times().elapsed - before.elapsed
    shares = [100 * (late - early) / ticks / wall for early, late in zip(idle, after, strict=True)]
    print(f"a guest that does not touch it: supervisor {shares[0]:.2f} %, process {shares[1]:.2f} % of a processor")


def main() -> None:
    assignable(EDU, EDU2, NE2K, RTL8139)
    path = Path("/tmp/bench.cfg")
    path.write_text(CONFIG)
    done = sh("xl", "create", "-p", str(path))
    assert done.returncode == 0, done.stderr
    domid = int(sh("xl", "domid", "bench").stdout)
    began = time.monotonic()
    try:
        with Puppet(domid) as puppet, delegate(domid, f"{EDU},vslot=1d", f"{NE2K},vslot=1b") as served:
            ready = time.monotonic() - began
            footprint(served, ready)
            sh("xl", "unpause", str(domid))
            place_all(puppet)
            measure(puppet)
    finally:
        sh("xl", "destroy", "bench")


main()
