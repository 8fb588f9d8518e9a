# SPDX-License-Identifier: LGPL-2.1-only
"""What is tried: a domain as libxl leaves it, and a run of ours on it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fault.inject import Fault, FaultyLog, FaultyStore, FaultyXen, Injector, Killed
from tests.unit.fakes import xenstore
from xlplug.config import from_xl, language
from xlplug.dom0 import recording
from xlplug.execute import grants
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.hypervisor import DomainInfo, HeldRights, Hypervisor, Store
from xlplug.model.occasion import STARTING, Occasion, Who
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOMEM, TARGET
from xlplug.plan import Plan, build
from xlplug.vga import VGA_MEMORY
from xlplug.xen.in_memory import MemStore, MemXen

VERSIONS = ((4, 14), (4, 17), (4, 20), (4, 22), (4, 23))
RECOVERY = ((4, 17), (4, 23))  # what differs here is how ports are unmapped

__all__ = ["SCENARIOS", "VERSIONS", "Run", "Scenario", "Scene", "revoke"]

HOST = recording.load_host(str(Path(__file__).parents[1] / "recorded" / "hosts" / "igd-laptop.json"))
WHO = Who(Domid(7), Domid(8))
IGD = Bdf.parse("0000:00:02.0")
_BASE = 'type="hvm"\nname="g"\nmemory=64\ndevice_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'
_DISPLAY = 'gfx_passthru="igd"\npci=["00:02.0"]\n'
_PORTS = 'ioports=["2f8-2ff"]\niomem=["500,1"]\n'


def plan(text: str, occasion: Occasion = STARTING, *, map_legacy: bool = False) -> Plan:
    config = from_xl.from_settings(language.parse((_BASE + text).encode()))
    made = build(config, HOST, WHO, occasion, map_legacy=map_legacy)
    assert not made.refusals
    return made


PLAIN = plan(f'vga="none"\n{_DISPLAY}{_PORTS}')
MAPPED = plan(f'vga="none"\n{_DISPLAY}{_PORTS}', map_legacy=True)
HEADLESS = plan(f'vga="none"\n{_PORTS}')
PRELOAD = plan(f'xlplug_preload=1\nvga="none"\nvif=["",""]\n{_DISPLAY}')


class Scene:
    """A Xen and a xenstore with guest 7 and its stubdomain 8, as libxl leaves them when the device model starts."""

    def __init__(
        self, version: tuple[int, int], made: Plan = PLAIN, *, ran: int = 0, plugged: tuple[Bdf, ...] = ()
    ) -> None:
        self.xen = MemXen(version)
        ram = (64 - 16) << 8
        self.xen.add_domain(
            DomainInfo(7, nr_pages=ram - 0x20, max_pages=ram + (16 << 8) + 256, uuid="seven", cpu_time=ran)
        )
        self.xen.add_domain(DomainInfo(8, hvm=False, nr_pages=1000, max_pages=1256, uuid="eight", cpu_time=ran))
        self.store: MemStore = xenstore()
        for theirs in made.by_libxl:
            if theirs.device in plugged and theirs.range == VGA_MEMORY:
                continue  # libxl grants it at creation only
            domid = 7 if theirs.grantee == TARGET else 8
            give = self.xen.iomem_permission if theirs.kind == IOMEM else self.xen.ioport_permission
            give(domid, theirs.range.start, theirs.range.nr, allow=True)
        self.libxl = self.xen.held()

    def copy(self) -> "Scene":
        return copy.deepcopy(self)

    @property
    def state(self) -> object:
        """All that Xen holds of it."""
        infos = [self.xen.domain_info(domid) for domid in (0, 7, 8)]
        gfns, ports = self.xen.mapped(7)
        return infos, self.xen.held(), (gfns, sorted(ports)), self.xen.ram(7), self.xen.crashed(7)

    @property
    def nodes(self) -> dict[str, str]:
        return {
            path: value
            for path, value in self.store.nodes.items()
            if "/xlplug/" in f"{path}/" and path.startswith("/l")
        }

    def destroy(self) -> None:
        """What libxl and Xen do: xenstore first."""
        for domid in (7, 8):
            for path in (f"/local/domain/{domid}", f"/libxl/{domid}"):
                self.store.remove(path)
            self.xen._domains.pop(domid, None)

    def device_model_maps(self) -> None:
        """What QEMU does for a display that it is given."""
        self.xen.memory_mapping(7, 0xA0, 0xA0, 0x20, add=True)
        for port, nr in ((0x3B0, 0xC), (0x3C0, 0x20)):
            self.xen.ioport_mapping(7, port, port, nr, add=True)


Run = Callable[[Hypervisor, Store, Callable[[str], None]], object]


class Scenario(NamedTuple):
    """``begin`` makes the scene, ``run`` is tried on it; ``clean`` makes what a run that failed must leave."""

    name: str
    begin: Callable[[tuple[int, int]], Scene]
    run: Run
    clean: Callable[[tuple[int, int]], Scene]
    versions: tuple[tuple[int, int], ...] = VERSIONS


def granting(made: Plan, plugged: tuple[Bdf, ...] = ()) -> Run:
    return lambda xen, store, log: grants.grant(made, xen, store, log, plugged=plugged)


def revoke(xen: Hypervisor, store: Store, log: Callable[[str], None]) -> object:
    return grants.revoke(7, xen, store, log)


def detached(xen: Hypervisor, store: Store, log: Callable[[str], None]) -> object:
    return grants.revoke_detached(HEADLESS, xen, store, log)


def fresh(version: tuple[int, int]) -> Scene:
    return Scene(version)


def late(version: tuple[int, int]) -> Scene:
    return Scene(version, ran=1)


def for_preload(version: tuple[int, int]) -> Scene:
    return Scene(version, PRELOAD)


def granted(version: tuple[int, int]) -> Scene:
    scene = Scene(version)
    grants.grant(PLAIN, scene.xen, scene.store, lambda _: None)
    return scene


def in_use(version: tuple[int, int]) -> Scene:
    scene = granted(version)
    scene.device_model_maps()
    return scene


def revoked(version: tuple[int, int]) -> Scene:
    scene = in_use(version)
    grants.revoke(7, scene.xen, scene.store, lambda _: None)
    return scene


def headless(version: tuple[int, int]) -> Scene:
    scene = Scene(version, MAPPED, plugged=(IGD,))
    grants.grant(HEADLESS, scene.xen, scene.store, lambda _: None)
    return scene


def plugged_in(version: tuple[int, int]) -> Scene:
    scene = headless(version)
    grants.grant(MAPPED, scene.xen, scene.store, lambda _: None, plugged=(IGD,))
    return scene


def unplugged(version: tuple[int, int]) -> Scene:
    """The device model has unmapped, and libxl has revoked the BARs and the ROM."""
    scene = plugged_in(version)
    for theirs in MAPPED.by_libxl:
        if theirs.device == IGD and theirs.range != VGA_MEMORY:
            take = scene.xen.iomem_permission if theirs.kind == IOMEM else scene.xen.ioport_permission
            take(7 if theirs.grantee == TARGET else 8, theirs.range.start, theirs.range.nr, allow=False)
    scene.libxl = {
        domid: HeldRights(
            *(
                RangeSet(g.range for g in HEADLESS.by_libxl if domid == 7 and (g.kind == IOMEM) == memory)
                for memory in (False, True)
            )
        )
        for domid in (7, 8)
    }
    return scene


def killed(begin: Callable[[tuple[int, int]], Scene], run: Run, call: int) -> Callable[[tuple[int, int]], Scene]:
    """The scene that a run leaves which is killed right after its n-th call that changes Xen."""

    def make(version: tuple[int, int]) -> Scene:
        counted = Injector()
        trial = begin(version)
        run(FaultyXen(trial.xen, counted), FaultyStore(trial.store, counted), FaultyLog(counted))  # type: ignore[arg-type]
        changes = [point.number for point in counted.points if point.side == "xen" and point.call != "domain_info"]
        scene = begin(version)
        injector = Injector(Fault("kill", changes[min(call, len(changes) - 1)], after=True))
        try:
            run(FaultyXen(scene.xen, injector), FaultyStore(scene.store, injector), FaultyLog(injector))  # type: ignore[arg-type]
        except Killed:
            return scene
        raise AssertionError("not killed")

    return make


SCENARIOS = (
    Scenario("grant", fresh, granting(PLAIN), fresh),
    Scenario("grant with RAM", for_preload, granting(PRELOAD), for_preload),
    Scenario("watcher's late grant", late, granting(MAPPED), late),
    Scenario("second grant: map-legacy", granted, granting(MAPPED), granted),
    Scenario("second grant: hot-plug", headless, granting(MAPPED, (IGD,)), headless),
    Scenario("grant again", granted, granting(PLAIN), granted),
    Scenario("revoke", in_use, revoke, in_use),
    Scenario("revoke of the unplugged", unplugged, detached, unplugged),
    *(
        Scenario(f"recovery of a killed {name}, by {by}", killed(begin, run, 2), after, clean, RECOVERY)
        for name, begin, run, again, clean in (
            ("grant", fresh, granting(PLAIN), granting(PLAIN), fresh),
            ("grant with RAM", for_preload, granting(PRELOAD), granting(PRELOAD), for_preload),
            ("second grant", granted, granting(MAPPED), granting(MAPPED), granted),
            ("revoke", in_use, revoke, granting(PLAIN), revoked),
        )
        for by, after in (("grant", again), ("revoke", revoke))
    ),
)
