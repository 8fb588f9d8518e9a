# SPDX-License-Identifier: LGPL-2.1-only
"""What a delegate costs: accesses a second, beside QEMU's own emulation of the same device, and beside nobody.

In the lab: ``python3 -m tests.lab exec --machine devices -- python3 -m benchmarks.delegate``.  The processor is emulated, so
the ratios mean something, and the numbers nothing.
"""

import time
from pathlib import Path

from tests.lab.dom0.conftest import BASE, sh
from tests.lab.dom0.delegates import delegate
from tests.lab.dom0.puppet import EDU, HVM, NE2K, Device, Puppet, assignable

OURS, THEIRS, NOBODY, PORTS = 0xF0000000, 0xF0100000, 0xF0300000, 0xC100
ROUNDS, COUNT, MOVES = 3, 300, 40


def rate(puppet: Puppet, operation: str, address: int, count: int = COUNT) -> float:
    """The best round's accesses a second."""
    best = 0.0
    for _ in range(ROUNDS):
        began = time.monotonic()
        puppet.do(operation, address, 0, count)
        best = max(best, count / (time.monotonic() - began))
    return best


def moves(device: Device) -> float:
    began = time.monotonic()
    for i in range(MOVES):
        device.config(0x10, 4, 0xE0000000 + (i << 20))
    return MOVES / (time.monotonic() - began)


def main() -> None:
    assignable(EDU, NE2K)
    path = Path("/tmp/bench.cfg")
    path.write_text(f'name="bench"\n{BASE}{HVM}device_model_args_hvm=["-device","edu,addr=1c.0"]\n')
    print(sh("xl", "create", "-p", str(path)).stderr, end="")
    domid = int(sh("xl", "domid", "bench").stdout)
    with Puppet(domid) as puppet, delegate(domid, f"{EDU},vslot=1d", f"{NE2K},vslot=1b"):
        sh("xl", "unpause", str(domid))
        for slot, address in ((0x1D, OURS), (0x1C, THEIRS)):
            device = Device(puppet, slot)
            device.place(0, address)
            device.decode(2)
        card = Device(puppet, 0x1B)
        card.place(0, PORTS)
        card.decode(1)
        for name, address, slot in (("delegate", OURS, 0x1D), ("QEMU", THEIRS, 0x1C), ("nobody", NOBODY, 0x1A)):
            puppet.do("out32", 0xCF8, 0x80000000 | slot << 11)
            print(
                f"{name:9} read {rate(puppet, 'reads32', address):8.0f}  write {rate(puppet, 'writes32', address):8.0f}"
                f"  config {rate(puppet, 'ins_each32', 0xCFC):8.0f}"
            )
        print(
            f"ports     delegate {rate(puppet, 'ins_each32', PORTS):8.0f}  nobody {rate(puppet, 'ins_each32', PORTS + 0x800):8.0f}"
        )
        for name, slot in (("delegate", 0x1D), ("QEMU", 0x1C), ("nobody", 0x1A)):
            print(
                f"moves     {name} {moves(Device(puppet, slot)):8.0f}, each with what the test guest takes for a config write"
            )
    sh("xl", "destroy", "bench")


main()
