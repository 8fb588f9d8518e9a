# SPDX-License-Identifier: LGPL-2.1-only
"""Many processes at once: one card, one set of legacy VGA ranges, and domains that come and go."""

import os
import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from tests.race.host import Server, Store, Xen, in_processes
from xlplug.config.domain import DomainConfig
from xlplug.dom0 import lock
from xlplug.execute import grants
from xlplug.execute.journal import Journal, is_vga
from xlplug.execute.preload_nodes import sweep
from xlplug.model.errors import ApplyError, HostError, Refused
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOMEM, PERMISSIONS
from xlplug.plan import build
from xlplug.xen.in_memory import MemStore, MemXen

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
VGA = 'gfx_passthru="igd"\npci=["00:02.0"]\nxlplug_map_legacy=1\n'
PROCESSES = 50


def quiet(line: str) -> None:
    assert line


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(lock, "_FOLDER", str(tmp_path / "run"))
    server = Server(tmp_path / "xen")
    yield server
    server.close()


#: What libxl grants at creation for a display of class 0300.
LIBXL = RangeSet([(0xA0, 0xC0)])


def create(xen: MemXen | Xen, store: MemStore | Store, domid: int, uuid: str = "") -> None:
    """As libxl does, as far as grants look at it."""
    info = DomainInfo(domid, nr_pages=1000, max_pages=1256, uuid=uuid or f"u{domid}")
    xen.add_domain(info, HeldRights(memory=LIBXL))
    store.write(f"/libxl/{domid}/type", "hvm")
    store.write(f"/local/domain/{domid}/name", f"g{domid}")


def destroy(path: str, domid: int) -> None:
    """In the order of libxl: its nodes, its folder, the domain."""
    store, xen = Store(path), Xen(path)
    store.remove(f"/local/domain/{domid}")
    store.remove(f"/libxl/{domid}")
    xen.ask("destroy", "", domid)


def untrue(server: Server, domids: Collection[int]) -> list[str]:
    """What is held and not recorded, or recorded and not held; records of domains that are gone; two owners of VGA."""
    xen, store = server.host.xen, server.host.store
    wrong, owners = [], []
    sweep(store, xen)  # as the next grant does: libxl does not know of the list of who has VGA
    held = xen.held()
    for domid in domids:
        info = xen.domain_info(domid)
        if info is None:
            if store.list(f"/libxl/{domid}") or store.read(f"/tool/xlplug-vga/{domid}") is not None:
                wrong.append(f"a record of domain {domid}, which is gone")
            continue
        entry = Journal(store, domid, info.uuid).read()
        if entry.pending:
            wrong.append(f"domain {domid}: steps are pending")
        for kind, libxl in (("memory", LIBXL), ("ports", RangeSet())):
            recorded = RangeSet(
                s.range for s in entry.steps if s.op in PERMISSIONS and (s.kind == IOMEM) == (kind == "memory")
            )
            has = getattr(held.get(domid, HeldRights()), kind)
            if has - libxl - recorded or recorded - has:
                wrong.append(f"domain {domid} holds {has} of {kind}, and {recorded} is recorded")
        if any(map(is_vga, entry.every)):
            owners.append(domid)
            if store.read(f"/tool/xlplug-vga/{domid}") is None:
                wrong.append(f"domain {domid} is not on the list of who has VGA")
    return wrong + ([f"VGA belongs to {owners}"] if len(owners) > 1 else [])


def status(run: Callable[[], object]) -> None:
    """Exit with the code of what the run raises."""
    try:
        run()
    except (Refused, ApplyError) as error:
        raise SystemExit(error.exit_code) from error


def test_many_grants_of_one_card(server: Server, host: Host, config: Config) -> None:
    """One of the domains gets the legacy ranges, and the others are refused with nothing touched."""
    plans = {d: build(config(VGA), host("igd-laptop"), Who(d), BY_HAND) for d in range(1, PROCESSES + 1)}
    for domid in plans:
        create(server.host.xen, server.host.store, domid)

    def grant(number: int) -> None:
        xen, store = Xen(server.path), Store(server.path)
        with lock.locked():
            status(lambda: grants.grant(plans[number + 1], xen, store, quiet))

    codes = in_processes(PROCESSES, grant)
    assert sorted(codes) == [0, *[1] * (PROCESSES - 1)]
    assert untrue(server, range(1, PROCESSES + 1)) == []


def test_many_grants_to_one_domain(server: Server, host: Host, config: Config) -> None:
    plan = build(config(VGA), host("igd-laptop"), Who(7), BY_HAND)
    create(server.host.xen, server.host.store, 7)

    def grant(number: int) -> None:
        xen, store = Xen(server.path), Store(server.path)
        with lock.locked():
            done = grants.grant(plan, xen, store, quiet)
        assert len(done.done) in (0, len(plan.steps))
        raise SystemExit(10 if done.done else 0)

    assert sorted(in_processes(PROCESSES, grant)) == [*[0] * (PROCESSES - 1), 10]
    assert untrue(server, range(7, 8)) == []


@pytest.mark.parametrize("seed", range(4))
def test_grant_against_revoke_detach_destroy_and_reboot(server: Server, host: Host, config: Config, seed: int) -> None:
    """Thirty processes; domains are destroyed and created again under the same number by processes without our lock."""
    numbers = range(1, 5)
    plans = {d: build(config(VGA), host("igd-laptop"), Who(d), BY_HAND) for d in numbers}
    detached = {d: plan._replace(devices=(), steps=()) for d, plan in plans.items()}
    for domid in numbers:
        create(server.host.xen, server.host.store, domid)

    def work(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        xen, store = Xen(server.path), Store(server.path)
        for _ in range(6):
            domid = dice.choice(numbers)
            what = dice.choice(("grant", "grant", "revoke", "detach", "destroy", "reboot"))
            if what in ("destroy", "reboot"):
                with lock.Lock("toolstack", 60, ""):  # libxl has one of its own for each domain
                    if xen.domain_info(domid) is not None:
                        destroy(server.path, domid)
                    if what == "reboot":
                        create(xen, store, domid, f"{number}-{dice.random()}")
                continue
            try:
                with lock.locked():
                    if what == "grant":
                        grants.grant(plans[domid], xen, store, quiet)
                    elif what == "revoke":
                        grants.revoke(domid, xen, store, quiet)
                    else:
                        grants.revoke_detached(detached[domid], xen, store, quiet)
            except (Refused, ApplyError):
                pass

    assert in_processes(30, work) == [0] * 30
    assert untrue(server, numbers) == []


def test_two_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight that start at once, one serves."""
    monkeypatch.setattr(lock, "_FOLDER", str(tmp_path / "run"))
    reading, writing = os.pipe()

    def serve(number: int) -> None:
        with lock.only_watcher():
            os.close(writing)
            os.read(reading, 1)  # until the others have ended

    def start(number: int) -> None:
        try:
            serve(number)
        except HostError as error:
            assert "another xlplug holds" in str(error)
            raise SystemExit(1) from error

    assert sorted(in_processes(8, start, before_waiting=lambda: os.close(writing))) == [0, *[1] * 7]
    os.close(reading)
