# SPDX-License-Identifier: LGPL-2.1-only
"""What the watcher decides, on the hypervisor in memory: every way a domain can appear, change and vanish."""

import contextlib
from collections.abc import Callable

import pytest

from xlplug.config.delegated import Spec
from xlplug.config.domain import DomainConfig
from xlplug.dom0.find_config import Found
from xlplug.execute import grants
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ApplyError, XenError
from xlplug.model.host import HostSnapshot, PciDevice
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.occasion import STARTING, Who
from xlplug.model.rangeset import RangeSet
from xlplug.plan import build
from xlplug.watch import guests as module
from xlplug.watch.guard import GuardLostError
from xlplug.watch.guests import ERROR, INFO, WARNING, Watcher, World
from xlplug.xen.in_memory import MemStore, MemXen

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]

PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
IGD = 'name="g"\ngfx_passthru="igd"\npci=["00:02.0"]\n'
STUBDOM = IGD + "device_model_stubdomain_override=1\n"


class Scene:
    """A host with a toolstack that builds domains, and what the watcher did to it."""

    def __init__(self, host: HostSnapshot) -> None:
        self.xen, self.store = MemXen((4, 17)), MemStore()
        self.host = host
        self.events: list[str] = []
        self.no_delegate = ""
        self.lines: list[tuple[int, str]] = []
        self.building: dict[str, Found] = {}
        self.records: dict[int, DomainConfig] = {}
        self.watcher = Watcher(
            World(
                self.xen, self.store, self, lambda p: self.events.append(f"watch {p}"), lambda p: None,
                lambda info, name: self.building.get(name), lambda info: self.records.get(info.domid),
                lambda config: self.host, contextlib.nullcontext, lambda p, text: self.lines.append((p, text)),
                self.delegate,
            )
        )  # fmt: skip

    def pause(self, domid: int) -> None:
        self.events.append(f"pause {domid}")

    def delegate(self, domid: int, specs: tuple[Spec, ...]) -> None:
        self.events.append(f"delegate {domid} {' '.join(map(str, specs))}")
        if self.no_delegate:
            raise ApplyError(f"the delegate of domain {domid} did not start: {self.no_delegate}", code="XLP716")

    def unpause(self, domid: int) -> None:
        self.events.append(f"unpause {domid} {self.xen.held()[domid].ports or 'nothing'}")

    def domain(self, domid: int, name: str = "g", *, target: int = 0, paused: bool = True, hvm: bool = True) -> None:
        self.xen.add_domain(DomainInfo(domid, hvm=hvm, paused=paused, nr_pages=1000, max_pages=1256, uuid=f"u{domid}"))
        self.store.write(f"/local/domain/{domid}/vm", f"/vm/u{domid}")
        self.store.write(f"/local/domain/{domid}/name", name)
        self.store.write(f"/libxl/{domid}/type", "hvm" if hvm else "pv")
        if target:
            self.store.write(f"/local/domain/{domid}/target", str(target))
            self.store.write(f"/local/domain/{target}/image/device-model-domid", str(domid))

    def gone(self, domid: int) -> None:
        self.store.remove(f"/local/domain/{domid}")
        self.store.remove(f"/libxl/{domid}")

    def said(self, priority: int) -> list[str]:
        return [text for p, text in self.lines if p <= priority]


@pytest.fixture
def scene(host: Host) -> Scene:
    return Scene(host("igd-laptop"))


def test_a_new_guest_is_paused_granted_and_let_go(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(IGD))
    scene.watcher.look()
    assert scene.watcher.wait() is None
    scene.domain(7)
    scene.watcher.look()
    assert scene.events == ["pause 7", "unpause 7 { 3b0-3bb, 3c0-3df }"]
    assert len(scene.lines) == 4
    assert scene.said(WARNING) == []
    assert scene.watcher.wait() == 1.0, "libxl has no record yet"
    scene.watcher.look()
    scene.records[7] = config(IGD)
    scene.watcher.look()
    scene.watcher.look({7}, host_changed=True)
    assert scene.watcher.wait() is None
    assert scene.events == ["pause 7", "unpause 7 { 3b0-3bb, 3c0-3df }"]
    assert len(scene.lines) == 4, "nothing is done twice"
    assert scene.xen.mapped(7) == ({}, ()), "the device model does that"


def test_a_stubdomain_is_paused_and_both_are_granted(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(STUBDOM), hooked=True)
    scene.domain(7)
    scene.watcher.look()
    assert scene.events == ["watch /local/domain/7/image/device-model-domid"]
    scene.domain(8, "g-dm", target=7, hvm=False)
    scene.watcher.look()
    assert scene.events[1:] == ["pause 8", "unpause 8 { 3b0-3bb, 3c0-3df }"]
    assert scene.xen.held()[7].ports == PORTS
    assert scene.said(WARNING) == []


def test_a_guest_of_the_hook_is_left_to_its_wrapper(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(IGD), hooked=True)
    scene.domain(7)
    scene.watcher.look()
    scene.records[7] = config(IGD)
    scene.watcher.look()
    assert scene.events == []
    # Had the wrapper not run, the record would still bring the grants.
    assert scene.xen.held()[7].ports == PORTS


@pytest.mark.parametrize(
    "text", ['name="g"\n', 'name="g"\npci=["00:02.0"]\n', 'name="g"\ntype="pv"\nioports=["2f8"]\n']
)
def test_what_needs_nothing_is_not_touched(scene: Scene, config: Config, text: str) -> None:
    scene.building["g"] = Found(config(text))
    scene.domain(7)
    scene.watcher.look()
    scene.records[7] = config(text)
    scene.watcher.look({7})
    assert (scene.events, scene.lines) == ([], [])
    assert scene.watcher.wait() is None


def test_other_domains_are_let_alone(scene: Scene) -> None:
    scene.domain(5, "pv", hvm=False)
    scene.domain(6, "g-dm", target=4)
    scene.store.write("/local/domain/9/vm", "/vm/half-made")
    scene.watcher.look()
    assert (scene.events, scene.lines, scene.watcher.wait()) == ([], [], None)


def test_another_toolstack_s_domain_is_named_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    scene.domain(7)
    for clock[0] in (0.0, 30.0, 59.0):
        scene.watcher.look()
        assert (scene.lines, scene.watcher.wait()) == ([], 1.0)
    for clock[0] in (61.0, 62.0):
        scene.watcher.look()
        assert [text for _, text in scene.lines] == [
            "domain 7 (g): no configuration found; if it needs grants: xlplug grant 7 --config FILE"
        ]
        assert scene.watcher.wait() is None


def test_a_running_guest_is_granted_without_a_pause(scene: Scene, config: Config) -> None:
    """The watcher was started after it."""
    scene.domain(7, paused=False)
    scene.records[7] = config(IGD)
    scene.watcher.look()
    assert scene.events == []
    assert scene.xen.held()[7].ports == PORTS
    assert scene.xen.mapped(7) == ({}, ())


@pytest.mark.parametrize("devices", ["", "0", "1"])
def test_a_stubdomain_that_ran_already(scene: Scene, config: Config, devices: str) -> None:
    """In time as long as it had no device; else the device model has mapped nothing, and we do."""
    scene.building["g"] = Found(config(STUBDOM))
    scene.domain(7)
    scene.domain(8, "g-dm", target=7, hvm=False)
    scene.xen.add_domain(DomainInfo(8, hvm=False, uuid="u8", cpu_time=1))
    if devices:
        scene.store.write("/local/domain/0/backend/pci/8/0/num_devs", devices)
    scene.watcher.look()
    assert scene.xen.held()[8].ports == scene.xen.held()[7].ports == PORTS
    if devices == "1":
        (text,) = scene.said(WARNING)
        assert text.startswith("domain 7 (g): domain 8 had the display before the grants were made")
        assert scene.xen.mapped(7)[1] == ((0x3B0, 0x3B0, 12), (0x3C0, 0x3C0, 32))
    else:
        assert scene.said(WARNING) == []
        assert [t for t in scene.said(INFO) if "in time" in t] == [
            "domain 7 (g): domain 8 ran before the grants were made, and had no PCI device yet: in time"
        ]
        assert scene.xen.mapped(7) == ({}, ()), "the device model will do that"


def test_it_is_let_run_while_it_is_looked_at(scene: Scene, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """libxl may unpause it at any moment before our pause."""
    scene.building["g"] = Found(config(STUBDOM))
    scene.domain(7)
    scene.domain(8, "g-dm", target=7, hvm=False)
    pause = scene.pause

    def run(domid: int) -> None:
        scene.xen.add_domain(DomainInfo(8, hvm=False, uuid="u8", cpu_time=1))
        scene.store.write("/local/domain/0/backend/pci/8/0/num_devs", "1")
        pause(domid)

    monkeypatch.setattr(scene, "pause", run)
    scene.watcher.look()
    assert len(scene.said(WARNING)) == 1


def test_a_guest_in_dom0_that_ran_already_is_said(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(IGD))
    scene.domain(7)
    scene.xen.add_domain(DomainInfo(7, uuid="u7", cpu_time=1))
    scene.watcher.look()
    assert scene.xen.held()[7].ports == PORTS
    assert scene.said(WARNING) == [
        "domain 7 (g): it ran before the grants were made; if the display stays dark: xl reboot 7"
    ]


@pytest.mark.parametrize("first", ["started later", "granted before", "refused before"])
def test_a_stubdomain_s_guest_that_lives_already(scene: Scene, config: Config, host: Host, first: str) -> None:
    """What its device model could not map is mapped, and said; what it could is let alone."""
    if first == "refused before":
        ready, scene.host = scene.host, host("igd-not-assignable")
        scene.building["g"] = Found(config(STUBDOM))
    scene.domain(7)
    scene.domain(8, "g-dm", target=7, hvm=False)
    if first == "granted before":
        made = build(config(STUBDOM), scene.host, Who(Domid(7), Domid(8)), STARTING)
        grants.grant(made, scene.xen, scene.store, lambda _: None)
    if first == "refused before":
        scene.watcher.look()
        assert len(scene.said(ERROR)) == 1
        scene.host = ready
    scene.records[7] = config(STUBDOM)
    scene.watcher.look()
    assert scene.xen.held()[8].ports == scene.xen.held()[7].ports == PORTS
    late = [text for text in scene.said(WARNING) if "had the display before the grants" in text]
    assert len(late) == len(scene.xen.mapped(7)[1]) / 2 == (first != "granted before")
    scene.watcher.look({7}, host_changed=True)
    assert len([text for text in scene.said(WARNING) if "had the display before" in text]) == len(late)


def test_a_failed_grant_is_undone_said_once_and_the_guest_let_go(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(IGD))
    scene.domain(7)
    scene.xen.fail_call(1, 12)
    scene.watcher.look()
    assert scene.events == ["pause 7", "unpause 7 nothing"]
    (text,) = scene.said(ERROR)
    assert "ENOMEM" in text
    scene.watcher.look()
    assert len(scene.said(ERROR)) == 1


def test_a_display_plugged_in_is_granted_and_mapped_and_taken_back(scene: Scene, config: Config) -> None:
    bare = 'name="g"\ngfx_passthru="igd"\n'
    scene.building["g"] = Found(config(bare))
    scene.domain(7)
    scene.watcher.look()
    scene.records[7] = config(bare)
    scene.watcher.look()
    assert scene.xen.held()[7].ports == RangeSet()
    (warning,) = scene.said(WARNING)
    assert "until one is plugged in" in warning

    scene.records[7] = config(IGD)
    scene.watcher.look({7})
    assert scene.xen.held()[7].ports == PORTS
    assert scene.xen.mapped(7)[1] == ((0x3B0, 0x3B0, 12), (0x3C0, 0x3C0, 32))
    assert scene.xen.mapped(7)[0] == {gfn: gfn for gfn in range(0xA0, 0xC0)}
    lines = len(scene.lines)
    scene.watcher.look({7})
    assert len(scene.lines) == lines

    scene.records[7] = config(bare)
    scene.watcher.look({7})
    assert scene.xen.held()[7].ports == RangeSet()
    assert scene.xen.mapped(7) == ({}, ())
    assert any("taken back" in text for text in scene.said(INFO))


@pytest.mark.parametrize("refused", [False, True])
def test_a_guest_cannot_keep_the_daemon_at_work(
    scene: Scene, config: Config, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """It closes and connects its frontend of pciback again and again, and each time a node below the backend changes."""
    locked: list[int] = []
    counted = scene.watcher._world._replace(lock=lambda: locked.append(1) or contextlib.nullcontext())
    monkeypatch.setattr(scene.watcher, "_world", counted)
    scene.domain(7)
    scene.records[7] = config(IGD.replace("02.0", "1f.0") if refused else IGD)
    scene.watcher.look()
    assert (scene.xen.held()[7].ports, bool(scene.said(ERROR)), len(locked)) == (
        (RangeSet(), True, 1) if refused else (PORTS, False, 1)
    )
    for _ in range(10):
        scene.watcher.look({7})
    assert len(locked) == 1
    scene.watcher.look(host_changed=True)
    assert len(locked) == 1 + refused, "what was refused may be possible now"
    scene.records[7] = config('gfx_passthru="igd"\n')
    scene.watcher.look({7})
    assert len(locked) == 2 + refused
    assert scene.xen.held()[7].ports == RangeSet()


def test_what_failed_is_tried_at_the_next_event(scene: Scene, config: Config) -> None:
    """Not a refusal, but the lock, Xen or xenstore."""
    scene.domain(7)
    scene.records[7] = config(IGD)
    scene.xen.fail_call(0, 12)
    scene.watcher.look()
    assert len(scene.said(ERROR)) == 1
    assert scene.xen.held()[7].ports == RangeSet()
    scene.watcher.look({7})
    assert scene.xen.held()[7].ports == PORTS


def test_a_display_that_was_there_and_comes_back_is_mapped(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(IGD))
    scene.domain(7)
    scene.watcher.look()
    for text, mapped in ((IGD, 0), ('name="g"\ngfx_passthru="igd"\n', 0), (IGD, 2)):
        scene.records[7] = config(text)
        scene.watcher.look({7})
        assert len(scene.xen.mapped(7)[1]) == mapped


def test_what_was_refused_is_tried_when_the_host_changes(scene: Scene, config: Config, host: Host) -> None:
    ready, scene.host = scene.host, host("igd-not-assignable")
    scene.domain(7, paused=False)
    scene.records[7] = config(IGD)
    scene.watcher.look()
    scene.watcher.look()
    (text,) = scene.said(ERROR)
    assert "not assignable" in text
    scene.host = ready
    scene.watcher.look()
    assert scene.xen.held()[7].ports == RangeSet()
    scene.watcher.look(host_changed=True)
    assert scene.xen.held()[7].ports == PORTS


def test_a_guest_that_reboots_is_a_new_one(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(IGD))
    for domid in (7, 9):
        scene.domain(domid)
        scene.watcher.look()
        assert scene.xen.held()[domid].ports == PORTS
        scene.gone(domid)
        scene.xen.ioport_permission(domid, 0x3B0, 0x30, allow=False)
        scene.watcher.look()
    assert scene.watcher.wait() is None


def test_a_lost_guard_ends_it(scene: Scene, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(domid: int) -> None:
        raise GuardLostError("killed")

    monkeypatch.setattr(scene, "pause", lost)
    scene.building["g"] = Found(config(IGD))
    scene.domain(7)
    with pytest.raises(GuardLostError):
        scene.watcher.look()
    assert scene.xen.held()[7].ports == RangeSet()


def test_a_domain_that_dies_meanwhile_is_one_line(
    scene: Scene, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(domid: int) -> None:
        raise XenError("xc_domain_pause", 3, f"domid={domid}")

    monkeypatch.setattr(scene, "pause", dead)
    scene.building["g"] = Found(config(IGD))
    scene.domain(7)
    scene.watcher.look()
    assert len(scene.said(ERROR)) == 1
    assert Domid(7) in scene.xen.held()


RAM = 'name="g"\nvga="stdvga"\nxlplug_preload=1\n'
BEHIND = 'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'


@pytest.mark.parametrize("moment", ["fresh", "restored", "late", "dom0"])
def test_ram_is_populated_while_the_stubdomain_has_not_run(scene: Scene, config: Config, moment: str) -> None:
    scene.building["g"] = Found(config(RAM + (BEHIND if moment != "dom0" else "")))
    scene.domain(7)
    scene.watcher.look()
    if moment == "restored":
        scene.store.write("/vm/u7/image/dm-argv/000", "-incoming")
    scene.domain(8, "g-dm", target=7, hvm=False)
    if moment == "late":
        scene.xen.add_domain(DomainInfo(8, hvm=False, uuid="u8", cpu_time=1))
    scene.watcher.look()
    told = scene.store.read("/local/domain/8/xlplug/7/populated")
    assert told == ("3000-400f" if moment == "fresh" else None)
    assert any("populate target" in line for line in scene.said(INFO)) == (moment == "fresh")
    calls = scene.xen.calls
    scene.records[7] = config(RAM.replace("xlplug_preload=1", "") + BEHIND)  # libxl keeps no key of ours
    scene.watcher.look()
    scene.watcher.look({7})
    assert scene.xen.calls == calls, "once"
    assert scene.store.read("/local/domain/8/xlplug/7/populated") == told


# many domains


class CountedStore(MemStore):
    """xenstore, and how often it was asked."""

    requests = 0

    def read(self, path: str) -> str | None:
        self.requests += 1
        return super().read(path)

    def list(self, path: str) -> list[str]:
        self.requests += 1
        return super().list(path)


def test_an_event_costs_the_same_with_500_domains(scene: Scene, config: Config) -> None:
    """In requests to xenstored, of which each takes two context switches and wakes a single-threaded daemon."""

    def settled(count: int) -> tuple[int, int, int]:
        made = Scene(scene.host)
        made.store = CountedStore()
        made.watcher = Watcher(made.watcher._world._replace(store=made.store))
        for domid in range(1, count + 1):
            made.domain(domid, f"g{domid}")
            made.records[domid] = config("")
        made.watcher.look()
        assert made.watcher.wait() is None

        def cost(**event: object) -> int:
            made.store.requests = 0
            made.watcher.look(**event)  # type: ignore[arg-type]
            return made.store.requests

        nothing, plugged = cost(), cost(changed={1})
        made.domain(count + 1, "new")
        made.building["new"] = Found(config(IGD.replace('"g"', '"new"')))
        new = cost()
        assert "pause" in made.events[-2]
        return nothing, plugged, new

    few, many = settled(2), settled(500)
    assert few == many
    assert many[0] == 1, "the list of domains"
    assert max(many) < 40


def test_a_number_that_is_used_again_is_another_domain(scene: Scene, config: Config) -> None:
    """Also when nobody has seen the first one go."""
    scene.domain(7)
    scene.records[7] = config("")
    scene.watcher.look()
    scene.gone(7)
    scene.xen = MemXen((4, 17))
    scene.watcher._world = scene.watcher._world._replace(xen=scene.xen)
    scene.xen.add_domain(DomainInfo(7, paused=True, nr_pages=1000, max_pages=1256, uuid="other"))
    scene.store.write("/local/domain/7/vm", "/vm/other")
    scene.store.write("/local/domain/7/name", "g")
    del scene.records[7]
    scene.building["g"] = Found(config(IGD))
    scene.watcher.look()
    assert scene.events == ["pause 7", "unpause 7 { 3b0-3bb, 3c0-3df }"]


def attached(scene: Scene, domid: int) -> None:
    """The display belongs to the guest: its device model has been given it."""
    devices = tuple(d._replace(owner=Domid(domid)) if d.bdf == Bdf(0, 0, 2, 0) else d for d in scene.host.devices)
    scene.host = scene.host._replace(devices=devices)


@pytest.mark.parametrize("stage", ["living", "being created"])
def test_a_device_model_in_dom0_that_could_not_map(scene: Scene, config: Config, stage: str) -> None:
    """Xen 4.23 refused QEMU: nobody had granted the ports before."""
    scene.xen = MemXen((4, 23))
    scene.watcher._world = scene.watcher._world._replace(xen=scene.xen)
    attached(scene, 7)
    scene.domain(7, paused=False)
    if stage == "living":
        scene.records[7] = config(IGD)
    else:
        scene.building["g"] = Found(config(IGD))
    scene.watcher.look()
    assert scene.xen.mapped(7)[1] == ((0x3B0, 0x3B0, 12), (0x3C0, 0x3C0, 32))
    assert any("the device model in dom0 had the display before the grants were made" in t for t in scene.said(WARNING))


def test_a_device_model_in_dom0_that_mapped_by_itself(scene: Scene, config: Config) -> None:
    """Up to Xen 4.22 it can, and its guest then holds the ports."""
    attached(scene, 7)
    scene.domain(7, paused=False)
    for ports in PORTS:
        scene.xen.ioport_permission(7, ports.start, ports.nr, allow=True)
    scene.records[7] = config(IGD)
    scene.watcher.look()
    assert scene.xen.mapped(7) == ({}, ())
    assert scene.said(WARNING) == []


def test_a_guest_that_is_being_destroyed_is_let_alone(scene: Scene, config: Config) -> None:
    """libxl removes its folder first, then the devices; Xen's domain and libxl's record come last."""
    scene.building["g"] = Found(config(IGD))
    scene.domain(7)
    scene.watcher.look()
    scene.records[7] = config(IGD)
    scene.watcher.look()
    assert scene.store.read("/libxl/7/xlplug/state") == "applied"
    lines = list(scene.lines)
    scene.store.remove("/libxl/7")
    scene.watcher.look({7})
    assert scene.store.read("/libxl/7/xlplug/state") is None
    assert scene.lines == lines


def test_a_refusal_because_it_is_being_destroyed_is_no_error(
    scene: Scene, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.domain(7, paused=False)
    scene.records[7] = config(IGD)

    def destroyed(config: DomainConfig) -> HostSnapshot:
        scene.xen.add_domain(DomainInfo(7, hvm=True, dying=True, uuid="u7"))
        return scene.host

    scene.watcher._world = scene.watcher._world._replace(snapshot=destroyed)
    scene.watcher.look()
    assert scene.lines == []


# delegates ------------------------------------------------------------------------------------------------------------

DELEGATED = 'name="g"\nxlplug_delegate=["03:00.0,vslot=1d"]\n'


@pytest.fixture
def card(scene: Scene) -> PciDevice:
    device = PciDevice(Bdf(0, 3, 0, 0), 0x1234, 0x11E8, 0xFF00, driver="pciback", config=bytes(64))
    scene.host = scene.host._replace(devices=(*scene.host.devices, device))
    return device


def test_a_delegate_is_started_while_the_guest_is_paused(scene: Scene, config: Config, card: PciDevice) -> None:
    scene.building["g"] = Found(config(DELEGATED))
    scene.domain(7)
    scene.watcher.look()
    assert scene.events == ["pause 7", "delegate 7 0000:03:00.0,vslot=1d.0", "unpause 7 nothing"]
    assert scene.said(INFO) == ["domain 7 (g): its delegate serves 0000:03:00.0"]
    scene.records[7] = config(DELEGATED)
    scene.watcher.look()
    assert len(scene.events) == 3, "once"


@pytest.mark.parametrize("stubdom", ["", "device_model_stubdomain_override=1\n"])
def test_the_wrapper_starts_the_delegate_of_a_hooked_guest(
    scene: Scene, config: Config, card: PciDevice, stubdom: str
) -> None:
    scene.building["g"] = Found(config(DELEGATED + stubdom), hooked=True)
    scene.domain(7)
    scene.watcher.look()
    scene.domain(8, "g-dm", target=7, hvm=False)
    scene.watcher.look()
    assert [event for event in scene.events if "delegate" in event] == []


def test_a_delegate_that_does_not_start_is_an_error_and_the_guest_runs(
    scene: Scene, config: Config, card: PciDevice
) -> None:
    scene.building["g"], scene.no_delegate = Found(config(DELEGATED)), "it has no hands"
    scene.domain(7)
    scene.watcher.look()
    assert scene.events[-1] == "unpause 7 nothing"
    assert scene.said(ERROR) == ["domain 7 (g): the delegate of domain 7 did not start: it has no hands [XLP716]"]


def test_what_cannot_be_delegated_is_an_error(scene: Scene, config: Config) -> None:
    scene.building["g"] = Found(config(DELEGATED))
    scene.domain(7)
    scene.watcher.look()
    assert scene.events == ["pause 7", "unpause 7 nothing"]
    (line,) = scene.said(ERROR)
    assert "0000:03:00.0 was not found on this host; see 'lspci -D' [XLP301]" in line
