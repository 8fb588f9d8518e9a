# SPDX-License-Identifier: LGPL-2.1-only
"""Populating 16 MiB of video RAM: 8 extents of 2 MiB against QEMU's way, one list of 4096 single pages (xen_ram_alloc).

At gfns that never had a page, as when a guest is created: with a page once there, the large ones find tables for small ones.
"""

import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from xlplug.execute.populate import extents, populate
from xlplug.model.addr import Domid
from xlplug.model.steps import POPULATE_PHYSMAP, TARGET, Step
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.lib import check, ffi

NR, RUNS = 16 << 8, 9  # pages
FIRST = 0x100000  # gfn: 4 GiB, above the RAM of a small guest


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def main(stock: str, path: Path, when: str) -> None:
    """Print the medians, and how far the pairs spread.

    ``path`` is a guest's config, whose name is the file's; ``stock`` is the xl to create it with.
    """
    subprocess.run([stock, "create", "-p", str(path)], check=True, capture_output=True)
    domid = Domid(int(subprocess.run([stock, "domid", path.stem], capture_output=True, text=True, check=True).stdout))
    ours, qemus, steps = [], [], []
    with XenCtrl() as xen:
        info = xen.domain_info(domid)
        assert info is not None
        xen.set_max_mem(domid, 4 * (info.nr_pages + 3 * RUNS * NR))

        def hypercall(gfns: range, order: int) -> float:
            """The call alone, its list made before, as QEMU makes it in C."""
            listed = ffi.new("xen_pfn_t[]", list(gfns))
            call = xen._lib.xc_domain_populate_physmap_exact
            return timed(lambda: check("populate", call(xen._xch, domid, len(gfns), order, 0, listed)))

        for i in range(RUNS):
            first = FIRST + 3 * i * NR
            ours.append(sum(hypercall(gfns, order) for order, gfns in extents(first, NR)))
            qemus.append(hypercall(range(first + NR, first + 2 * NR), 0))
            made = Step(POPULATE_PHYSMAP, TARGET, domid, first + 2 * NR, NR)
            steps.append(timed(lambda made=made: populate(made, xen)))  # type: ignore[misc]
        info = xen.domain_info(domid)
        assert info is not None
        assert info.nr_pages > 3 * RUNS * NR, "all of it is there"
    subprocess.run([stock, "destroy", path.stem], check=True, capture_output=True)
    for what, took in (("hypercalls alone", ours), ("the whole step", steps)):
        name = f"populate 16 MiB {when}, {what} / one order-0 list"
        mine, theirs = statistics.median(took), statistics.median(qemus)
        times = sorted(theirs / mine for mine, theirs in zip(took, qemus, strict=True))
        print(f"{name:<72} {mine:9.2f} ms {theirs:9.2f} ms {theirs / mine:7.1f} x less", end="")
        print(f", in {RUNS} pairs {times[0]:.1f} to {times[-1]:.1f}", flush=True)
