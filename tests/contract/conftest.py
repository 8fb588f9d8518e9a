# SPDX-License-Identifier: LGPL-2.1-only
"""Where the contract suite runs: in memory anywhere, on the real Xen inside the lab's dom0.  The tests do not know."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.versions import PERSONALITIES, Behaviour, behaviour
from xlplug.model.hypervisor import DomainInfo, Hypervisor, Store
from xlplug.xen.in_memory import MemStore, MemXen

IN_LAB = bool(os.environ.get("XLPLUG_IN_LAB"))
PAGES = 64 << 8  # of a guest with memory=64


class RealWorld:
    """The real Xen; domains are made by stock xl."""

    def __init__(self) -> None:
        from xlplug.xen.ctrl import XenCtrl
        from xlplug.xen.store import XenStore

        ctrl = XenCtrl()
        self.xen: Hypervisor = ctrl
        self.store: Store = XenStore()
        self.does: Behaviour = behaviour(ctrl.version)
        self.count = 0

    def domain(self) -> int:
        self.count += 1
        config = Path(tempfile.mkdtemp()) / "c.cfg"
        config.write_text(
            f'type="hvm"\nname="c{self.count}"\nmemory=64\nvcpus=1\nvnc=0\nvga="none"\non_crash="preserve"\n'
        )
        subprocess.run(["xl", "create", "-p", str(config)], check=True, capture_output=True, timeout=120)
        return int(subprocess.run(["xl", "domid", f"c{self.count}"], check=True, capture_output=True).stdout)

    def destroy(self, domid: int) -> None:
        subprocess.run(["xl", "destroy", str(domid)], check=True, capture_output=True, timeout=120)

    def crashed(self, domid: int) -> bool:
        info = self.xen.domain_info(domid)
        return info is not None and info.shutdown


class MemoryWorld:
    """The one in memory."""

    def __init__(self, personality: tuple[int, int] = (4, 17)) -> None:
        self.memory = MemXen(personality)
        self.xen: Hypervisor = self.memory
        self.store: Store = MemStore()
        self.does: Behaviour = behaviour(personality)
        self.count = 0

    def domain(self) -> int:
        self.count += 1
        self.memory.add_domain(DomainInfo(self.count, nr_pages=PAGES - 16, max_pages=PAGES + 256))
        return self.count

    def destroy(self, domid: int) -> None:
        del self.memory._domains[domid]

    def crashed(self, domid: int) -> bool:
        return self.memory.crashed(domid)


World = RealWorld | MemoryWorld


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole contract is part of the smoke test: it is what differs between versions."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.smoke)


@pytest.fixture(scope="module", params=["real"] if IN_LAB else PERSONALITIES, ids=str)
def world(request: pytest.FixtureRequest) -> World:
    return RealWorld() if IN_LAB else MemoryWorld(request.param)


@pytest.fixture(scope="module")
def shared_domain(world: World) -> Iterator[int]:
    domid = world.domain()
    yield domid
    world.destroy(domid)


@pytest.fixture
def domid(world: World, shared_domain: int) -> Iterator[int]:
    """A domain that holds nothing before and after; shared, because making one takes seconds on the real Xen."""
    yield shared_domain
    held = world.xen.held()[shared_domain]
    for r in held.memory:
        world.xen.iomem_permission(shared_domain, r.start, r.nr, allow=False)
    for r in held.ports:
        world.xen.ioport_permission(shared_domain, r.start, r.nr, allow=False)


@pytest.fixture
def fresh(world: World) -> Iterator[Callable[[], int]]:
    """Makes a domain of the test's own, for tests that crash or leak."""
    made: list[int] = []

    def make() -> int:
        made.append(world.domain())
        return made[-1]

    yield make
    for one in made:
        if world.xen.domain_info(one) is not None:  # a test may have destroyed it itself
            world.destroy(one)
