# SPDX-License-Identifier: LGPL-2.1-only
"""What the daemon does, in any order of events: guests that come, reboot, go, are renamed and revoked; a display that moves
between them; stubdomains that die, and whose numbers other domains get; a lock that others hold; and faults at any place.

After each look nothing is paused, other domains have what they had, one guest at most has legacy VGA, and that is recorded;
nothing is recorded for a domain that is gone.
"""

import contextlib
from collections.abc import Callable, Iterator
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.fault.inject import NONE, Fault, FaultyStore, FaultyXen, Injector
from tests.fault.scenarios import HOST, IGD
from tests.property.worlds import VERSIONS
from xlplug.config import from_xl, language
from xlplug.config.domain import DomainConfig
from xlplug.dom0.find_config import Found
from xlplug.execute import grants
from xlplug.execute.journal import Journal, is_vga
from xlplug.model.errors import HostError, StoreError, XlplugError
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.rangeset import RangeSet
from xlplug.watch.guests import Watcher, World
from xlplug.xen.in_memory import MemStore, MemXen

OTHERS = HeldRights(RangeSet([(0x2F8, 0x300), (0x3C0, 0x3C4)]), RangeSet([(0xA0, 0xC0), (0x7A18D, 0x7A18E)]))


def config(name: str, *, display: bool, stubdom: bool) -> DomainConfig:
    text = f'name="{name}"\ntype="hvm"\nmemory=64\nvga="none"\ngfx_passthru="igd"\n'
    text += 'pci=["00:02.0"]\n' if display else ""
    text += 'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n' if stubdom else ""
    return from_xl.from_settings(language.parse(text.encode()))


class Dom0:
    """A host with one display, the toolstack's half of it, and the daemon."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.version = random.choice(VERSIONS)
        self.xen, self.store, self.injector = MemXen(self.version), MemStore(), Injector()
        self.injector.destroy = self.destroy
        self.configs: dict[int, DomainConfig] = {}  # of the guests that live; a stubdomain has the next number
        self.recorded: set[int] = set()  # those of which libxl has written its own record
        self.others: set[int] = set()
        self.owner: int | None = None
        self.paused: list[int] = []
        self.last = 5
        self.locked_by_others = False
        self.another(3)
        self.restart()

    def restart(self) -> None:
        """The daemon is started again."""
        xen, store = FaultyXen(self.xen, self.injector), FaultyStore(self.store, self.injector)
        xen.version = self.version  # type: ignore[attr-defined]
        self.watcher = Watcher(
            World(
                xen, store, self, lambda path: None, lambda path: None, lambda info, name: self.building(name),
                lambda info: self.configs[info.domid] if info.domid in self.recorded else None, lambda config: self.host,
                self.lock, lambda priority, text: None, lambda domid, specs: None,
            )
        )  # type: ignore[arg-type] # a hypervisor that has no q dump # fmt: skip

    @property
    def host(self) -> object:
        return HOST._replace(devices=tuple(d._replace(owner=self.owner) if d.bdf == IGD else d for d in HOST.devices))

    def building(self, name: str) -> Found | None:
        made = [c for domid, c in self.configs.items() if c.name == name and domid not in self.recorded]
        return Found(made[-1]) if made else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        if self.locked_by_others:
            raise HostError("another xlplug holds the lock")
        yield

    def pause(self, domid: int) -> None:
        if self.xen.domain_info(domid) is None:
            raise XlplugError("no such domain")
        self.paused.append(domid)

    def unpause(self, domid: int) -> None:
        self.paused.remove(domid)

    # what happens

    def create(self, name: str = "") -> None:
        domid, stubdom = self.last, self.random.random() < 0.5
        self.last += 2
        display = self.owner is None and self.random.random() < 0.6
        self.configs[domid] = config(name or f"g{self.random.randrange(3)}", display=display, stubdom=stubdom)
        self._make(domid, DomainInfo(domid, paused=True, nr_pages=1000, max_pages=1256, uuid=f"u{domid}"))
        self.store.write(f"/local/domain/{domid}/name", self.configs[domid].name)
        if stubdom:
            self._make(domid + 1, DomainInfo(domid + 1, hvm=False, nr_pages=1000, max_pages=1256, uuid=f"u{domid + 1}"))
            self.store.write(f"/local/domain/{domid + 1}/target", str(domid))
            self.store.write(f"/local/domain/{domid}/image/device-model-domid", str(domid + 1))
        if display:
            self.give(domid)

    def another(self, domid: int) -> None:
        """A guest that is not ours gets this number."""
        self._make(domid, DomainInfo(domid, nr_pages=1000, max_pages=1256, uuid=f"another {domid}"), OTHERS)
        self.others.add(domid)

    def _make(self, domid: int, info: DomainInfo, rights: HeldRights | None = None) -> None:
        self.xen.add_domain(info, rights)
        for path, value in (("name", f"d{domid}"), ("vm", f"/vm/{info.uuid}")):
            self.store.write(f"/local/domain/{domid}/{path}", value)
        self.store.write(f"/libxl/{domid}/type", "hvm")

    def _end(self, domid: int) -> None:
        for path in (f"/local/domain/{domid}", f"/libxl/{domid}"):
            self.store.remove(path)
        self.xen._domains.pop(domid, None)

    def guest(self) -> int | None:
        return self.random.choice(sorted(self.configs)) if self.configs else None

    def give(self, domid: int | None) -> None:
        self.owner = domid
        self.store.remove("/local/domain/0/backend/pci")
        if domid is not None:
            self.store.write(f"/local/domain/0/backend/pci/{domid}/0/dev-0", str(IGD))

    def destroy(self, domid: int | None = None) -> None:
        domid = self.guest() if domid is None else domid
        if domid is None:
            return
        gone = self.configs.pop(domid)
        self.recorded.discard(domid)
        if self.owner == domid:
            self.give(None)
        if gone.stubdom and domid + 1 not in self.others:
            self._end(domid + 1)
        self._end(domid)

    def happen(self) -> None:
        """One event."""
        domid = self.guest()
        events: list[Callable[[], object]] = [lambda: None, lambda: None, self.restart]
        if len(self.configs) < 3:
            events += [self.create, self.create]
        if domid is not None:
            name, stubdom = self.configs[domid].name, self.configs[domid].stubdom
            events += [
                lambda: self.destroy(domid), lambda: (self.destroy(domid), self.create(name)),
                lambda: self.store.write(f"/local/domain/{domid}/name", "renamed"),
                lambda: self.run(domid), lambda: self.recorded.add(domid),
                lambda: grants.revoke(domid, self.xen, self.store, lambda line: None),
            ]  # fmt: skip
            if stubdom and domid + 1 in self.xen._domains and domid + 1 not in self.others:
                events += [lambda: self._end(domid + 1), lambda: (self._end(domid + 1), self.another(domid + 1))]
            if domid in self.recorded and self.owner in (None, domid):
                attached = self.owner is None
                events += [lambda: self.plug(domid, config(name, display=attached, stubdom=stubdom), attached)] * 2
        with contextlib.suppress(XlplugError):
            self.random.choice(events)()

    def run(self, domid: int) -> None:
        for each in {domid, domid + 1} & set(self.xen._domains):
            domain = self.xen._domains[each]
            domain.info = domain.info._replace(cpu_time=5, paused=False)

    def plug(self, domid: int, now: DomainConfig, attached: bool) -> None:
        self.configs[domid] = now
        self.give(domid if attached else None)

    def look(self, fault: Fault = NONE) -> None:
        self.injector.fault, self.injector.points = fault, []
        changed = [domid for domid in self.configs if self.random.random() < 0.5]
        with contextlib.suppress(StoreError):  # xenstored is gone, and the daemon ends
            self.watcher.look(changed, host_changed=self.random.random() < 0.2)
        self.injector.fault = NONE

    def check(self) -> None:
        assert not self.paused
        held = self.xen.held()
        for domid in self.others & set(held):
            assert held[domid] == OTHERS, f"domain {domid} is not ours"
        recorded = {d for d in self.configs if any(map(is_vga, Journal(self.store, d, f"u{d}").read().every))}
        assert {d for d in self.configs if held[d].ports.overlaps(0x3B0, 0x3E0)} <= recorded
        assert len(recorded) < 2, "one set of VGA ranges, and two guests that have it"
        for path in self.store.nodes:
            gone = path.startswith("/libxl/") and "/xlplug" in path and int(path.split("/")[2]) not in held
            assert not gone, f"recorded for a domain that is gone: {path}"


@given(st.randoms(use_true_random=False))
def test_no_order_of_events_and_faults_gives_the_daemon_a_right_too_many(random: Random) -> None:
    dom0 = Dom0(random)
    for _ in range(20):
        dom0.happen()
        dom0.locked_by_others = random.random() < 0.1
        fault = NONE
        if random.random() < 0.4:
            kind, lasting = random.choice(("errno", "store", "destroy")), random.random() < 0.1
            fault = Fault(kind, random.randrange(80), kind != "errno" and random.random() < 0.5, lasting, code=12)
        dom0.look(fault)
        dom0.check()
    dom0.locked_by_others = False
    dom0.look()
    dom0.check()
