# SPDX-License-Identifier: LGPL-2.1-only
"""Policy, on recorded hosts: what is granted, to whom, and what is refused."""

import time
from collections.abc import Callable

import pytest

from xlplug.config.domain import DomainConfig, PciAssignment
from xlplug.dom0.find_config import parse
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.host import PCIBACK, ROM_INDEX, HostSnapshot, PciDevice, Resource, XenInfo
from xlplug.model.hypervisor import HeldRights
from xlplug.model.occasion import BY_HAND, CREATING, Who
from xlplug.model.rangeset import Range, RangeSet
from xlplug.plan import Plan, build, mapped_in_vain

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
IGD = 'gfx_passthru="igd"\npci=["00:02.0"]\n'
STUB = "device_model_stubdomain_override=1\n"
PORTS = {("ioport_permission", 0x3B0, 0xC), ("ioport_permission", 0x3C0, 0x20)}
VGA = {("iomem_permission", 0xA0, 0x20), *PORTS}


def calls(plan: Plan, grantee: str = "target") -> set[tuple[str, int, int]]:
    found = [(s.op, s.first, s.nr) for s in plan.steps if s.grantee == grantee]
    assert len(found) == len(set(found))
    return set(found)


def test_igd_target_gets_vga_and_opregion_never_the_vbios(host: Host, config: Config) -> None:
    plan = build(config(IGD), host("igd-laptop"))
    assert not plan.refusals
    assert calls(plan) == VGA | {("iomem_permission", 0x7A18D, 3)}, "8 KiB unaligned span 3 pages"
    assert calls(plan, "stubdom") == set(), "no stubdomain, nobody else"
    assert any(g.range == (0xC0, 0xE0) and "never grants it to the target" in g.reason for g in plan.by_libxl)


def test_stubdom_gets_the_vbios_too_in_one_range_with_vga(host: Host, config: Config) -> None:
    plan = build(config(IGD + STUB), host("igd-laptop"), Who(Domid(7), Domid(8)))
    assert calls(plan) == VGA | {("iomem_permission", 0x7A18D, 3)}
    assert calls(plan, "stubdom") == PORTS | {("iomem_permission", 0xA0, 0x30), ("iomem_permission", 0x7A18D, 3)}
    assert {s.domid for s in plan.steps if s.grantee == "stubdom"} == {8}
    assert {s.domid for s in plan.steps if s.grantee == "target"} == {7}


def test_libxl_s_own_grants_are_shared(host: Host, config: Config) -> None:
    steps = build(config(IGD + STUB), host("igd-laptop")).steps
    shared = {(s.grantee, s.first) for s in steps if s.shared}
    assert shared == {("target", 0xA0), ("stubdom", 0xA0)}


def test_where_qemu_alone_is_told_libxl_grants_no_vga(host: Host, config: Config) -> None:
    """As with libvirt: then all of it is ours, and is taken back."""
    made = config(IGD.replace('gfx_passthru="igd"', 'device_model_args=["-machine","igd-passthru=on"]'))
    steps, usual = build(made, host("igd-laptop")).steps, build(config(IGD), host("igd-laptop")).steps
    assert [step._replace(kept=RangeSet()) for step in steps] == [step._replace(kept=RangeSet()) for step in usual]
    assert [step.kept for step in steps if step.first == 0xA0] == [RangeSet()]
    assert [step.kept for step in usual if step.first == 0xA0] == [RangeSet([(0xA0, 0xC0)])]


def test_raptor_lake_s_class_counts_for_intel_and_libxl_does_not_grant_it(host: Host, config: Config) -> None:
    plan = build(config(IGD), host("raptor-lake"))
    assert not plan.refusals
    assert calls(plan) == VGA | {("iomem_permission", 0x6FBD4, 3)}
    assert not any(s.shared for s in plan.steps)


def test_the_same_class_is_no_vga_for_other_vendors(host: Host, config: Config) -> None:
    raptor = host("raptor-lake")
    devices = tuple(d._replace(vendor=0x1002) if d.bdf == Bdf(0, 0, 2, 0) else d for d in raptor.devices)
    plan = build(config(IGD), raptor._replace(devices=devices))
    assert plan.steps == ()
    assert "no display device" in str(plan.refusals[0])


def test_an_amd_vga_at_00_02_0_is_no_igd(host: Host, config: Config) -> None:
    plan = build(config(IGD), host("amd-apu"))
    assert not plan.refusals
    assert calls(plan) == VGA
    assert "write gfx_passthru" not in " ".join(map(str, plan.warnings))
    default = build(config(IGD.replace('"igd"', "1")), host("amd-apu"))
    assert 'write gfx_passthru="igd"' in " ".join(map(str, default.warnings))


def test_vga_memory_in_ram_is_refused(host: Host, config: Config) -> None:
    amd = host("amd-apu")
    memory = tuple(m._replace(stop=0xC0000) if m.start == 0 else m for m in amd.memory)
    assert "System RAM" in str(build(config(IGD), amd._replace(memory=memory)).refusals[0])


def test_a_virtual_function_never_gets_vga(host: Host, config: Config) -> None:
    plan = build(config(IGD.replace("02.0", "02.1")), host("sriov-igd"))
    assert plan.steps == ()
    assert "virtual function" in str(plan.warnings[0])
    assert "no display device" in str(plan.refusals[0])


def test_all_functions_are_expanded(host: Host, config: Config) -> None:
    plan = build(config('pci=["00:02.*"]\n'), host("sriov-igd"))
    assert [str(a.device.bdf) for a in plan.devices] == [f"0000:00:02.{n}" for n in range(4)]


def test_a_discrete_card_alone(host: Host, config: Config) -> None:
    plan = build(config('gfx_passthru="igd"\npci=["07:00.0","07:00.1"]\n' + STUB), host("discrete-amd"))
    assert not plan.refusals
    assert calls(plan) == VGA
    assert ("iomem_permission", 0xA0, 0x20 + 15) in calls(plan, "stubdom"), "VBIOS of 0xe600 bytes: 15 pages"
    assert {(d.bar, d.range.start) for d in plan.delegated if d.kind == "ioport"} == {(4, 0xE000)}


@pytest.mark.parametrize("size", [0, 0x20200])
def test_a_vbios_header_that_lies_is_not_believed(host: Host, config: Config, size: int) -> None:
    laptop = host("igd-laptop")
    assert laptop.vbios is not None
    plan = build(config(IGD + STUB), laptop._replace(vbios=laptop.vbios._replace(size=size)))
    assert ("iomem_permission", 0xA0, 0x20) in calls(plan, "stubdom")
    assert "VBIOS shadow not granted" in str(plan.warnings[0])


def test_without_gfx_passthru_nothing(host: Host, config: Config) -> None:
    plan = build(config('pci=["00:02.0"]\n'), host("igd-laptop"))
    assert plan.steps == ()
    assert not plan.refusals
    assert "stock QEMU refuses this display without gfx_passthru" in str(plan.warnings[0])
    assert len(plan.delegated) == 3


def test_not_assignable_warns_ahead_and_refuses_when_granting(host: Host, config: Config) -> None:
    unbound = host("igd-not-assignable")
    ahead = build(config(IGD), unbound)
    assert not ahead.refusals
    assert "hide it at boot: xen-pciback.hide=(0000:00:02.0)" in str(ahead.warnings[0])
    assert "hide it at boot" in str(build(config(IGD), unbound, Who(Domid(7)), BY_HAND).refusals[0])
    seized = build(config(IGD.replace("02.0", "02.0,seize=1")), unbound, Who(Domid(7)), BY_HAND)
    assert not seized.refusals
    assert "seize=1 takes it away, which can hang the host" in str(seized.warnings[0])
    idle = unbound._replace(devices=tuple(d._replace(driver=None) for d in unbound.devices))
    assert "run: xl pci-assignable-add 0000:00:02.0" in str(build(config(IGD), idle).warnings[0])


def test_owned_by_another(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    owned = laptop._replace(devices=tuple(d._replace(owner=Domid(5)) for d in laptop.devices))
    assert "assigned to domain 5" in str(build(config(IGD), owned, Who(Domid(7))).refusals[0])
    assert not build(config(IGD), owned, Who(Domid(5))).refusals


@pytest.mark.parametrize(
    ("target", "stubdom", "says"),
    [
        (0, None, "is dom0"),
        (0x7FF0, None, "not a domain's number"),
        (7, 0, "is dom0"),
        (7, 7, "both"),
        (7, 0x7FF4, "not a domain's number"),
    ],
)
def test_domids(host: Host, config: Config, target: int, stubdom: int | None, says: str) -> None:
    plan = build(config(IGD), host("igd-laptop"), Who(Domid(target), None if stubdom is None else Domid(stubdom)))
    assert any(says in refusal.what for refusal in plan.refusals)


def test_a_stubdomain_that_does_not_run_yet(host: Host, config: Config) -> None:
    assert not build(config(IGD + STUB), host("igd-laptop"), Who(Domid(7))).refusals
    assert "none runs yet" in str(build(config(IGD + STUB), host("igd-laptop"), Who(Domid(7)), BY_HAND).refusals[0])


def test_populate_on_demand(host: Host, config: Config) -> None:
    assert "populate on demand" in str(build(config(IGD + "maxmem=128\n"), host("igd-laptop")).refusals[0])
    assert not build(config("maxmem=128\n"), host("igd-laptop")).refusals


def test_unknown_device(host: Host, config: Config) -> None:
    assert "no such PCI device" in str(build(config('pci=["07:00.0"]\n'), host("igd-laptop")).refusals[0])
    assert "by name" in str(build(config('pci=["name=foo"]\n'), host("igd-laptop")).refusals[0])


def test_a_display_that_may_come_later(host: Host, config: Config) -> None:
    none, absent = config('gfx_passthru="igd"\n'), config('gfx_passthru="igd"\npci=["07:00.0"]\n')
    later = "nothing is granted until one is plugged in"
    assert later in str(build(none, host("igd-laptop"), occasion=CREATING).warnings[0])
    assert "add one to pci=" in str(build(none, host("igd-laptop")).refusals[0])
    assert build(absent, host("igd-laptop"), occasion=CREATING).warnings == (), "it is refused, and that is enough"
    assert len(build(absent, host("igd-laptop"), occasion=CREATING).refusals) == 1
    assert len(build(absent, host("igd-laptop")).refusals) == 2
    other = config('gfx_passthru="igd"\npci=["00:1f.0"]\n')
    assert any(later in w.what for w in build(other, host("igd-laptop"), occasion=CREATING).warnings)


def test_a_device_model_that_has_mapped_in_vain(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    attached = laptop._replace(devices=tuple(d._replace(owner=Domid(7)) for d in laptop.devices))
    ports = RangeSet([(0x3B0, 0x3BC), (0x3C0, 0x3E0)])
    plan = build(config(IGD), attached, Who(Domid(7)))
    assert mapped_in_vain(plan, HeldRights())
    assert mapped_in_vain(plan, HeldRights(ports=ports - RangeSet([(0x3DF, 0x3E0)])))
    assert not mapped_in_vain(plan, HeldRights(ports=ports))
    assert not mapped_in_vain(build(config(IGD), laptop, Who(Domid(7))), HeldRights()), "not attached yet"
    assert not mapped_in_vain(build(config(IGD), laptop), HeldRights())
    assert not mapped_in_vain(build(config('pci=["00:02.0"]\n'), attached, Who(Domid(7))), HeldRights())


def test_map_legacy_maps_the_exact_tuples_after_the_permissions(host: Host, config: Config) -> None:
    for plan in (
        build(config(IGD), host("igd-laptop"), map_legacy=True),
        build(config(IGD + "xlplug_map_legacy=1\n"), host("igd-laptop")),
    ):
        mapped = [(s.op, s.first_guest, s.first, s.nr) for s in plan.steps if "mapping" in s.op]
        assert mapped == [
            ("memory_mapping", 0xA0, 0xA0, 0x20),
            ("ioport_mapping", 0x3B0, 0x3B0, 0xC),
            ("ioport_mapping", 0x3C0, 0x3C0, 0x20),
        ]
        first_map = next(i for i, s in enumerate(plan.steps) if "mapping" in s.op)
        assert all("mapping" in s.op for s in plan.steps[first_map:])


def test_mapping_for_a_display_that_is_attached_already_warns(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    owned = laptop._replace(devices=tuple(d._replace(owner=Domid(7)) for d in laptop.devices))
    assert "may have mapped" in str(build(config(IGD), owned, Who(Domid(7)), map_legacy=True).warnings[0])
    assert not build(config(IGD), owned, Who(Domid(7))).warnings
    assert not build(config(IGD + 'ioports=["300"]\n'), owned, Who(Domid(7))).warnings, (
        "nothing of the VGA set is mapped"
    )


def test_ioports_of_an_hvm_guest_are_mapped(host: Host, config: Config) -> None:
    plan = build(config('ioports=["2f8-2ff","300"]\n'), host("server-bmc"))
    assert calls(plan) == {
        ("ioport_permission", 0x2F8, 9), ("ioport_mapping", 0x2F8, 9),
    }  # fmt: skip
    assert all(s.shared for s in plan.steps if s.op == "ioport_permission")


def test_ioports_that_repeat_or_touch_vga_are_left_to_the_device_model(host: Host, config: Config) -> None:
    plan = build(config(IGD + 'ioports=["3b0-3df"]\n'), host("igd-laptop")._replace(xen=XenInfo((4, 23), "4.23")))
    assert not any(s.op == "ioport_mapping" for s in plan.steps)
    assert any("touch the VGA ports" in w.what for w in plan.warnings)
    alone = build(config('ioports=["3b0-3bb","3c0-3df"]\n'), host("igd-laptop"))
    assert [(s.first, s.nr) for s in alone.steps if s.op == "ioport_mapping"] == [(0x3B0, 0xC), (0x3C0, 0x20)]


def test_pv_guests_need_no_mapping(host: Host) -> None:
    plan = build(DomainConfig(type="pv", ioports=()), host("igd-laptop"))
    assert plan.steps == ()


def test_permission_calls_are_the_maximal_ranges(host: Host, config: Config) -> None:
    for name in ("igd-laptop", "raptor-lake", "amd-apu", "discrete-amd", "igd-opregion-2-0-rvda"):
        bdf = "07:00.0" if name == "discrete-amd" else "00:02.0"
        plan = build(config(f'gfx_passthru="igd"\npci=["{bdf}"]\n' + STUB), host(name))
        for grantee in ("target", "stubdom"):
            for op in ("iomem_permission", "ioport_permission"):
                ranges = [s.range for s in plan.steps if s.op == op and s.grantee == grantee]
                assert len(RangeSet(ranges)) == len(ranges)


@pytest.mark.parametrize(
    ("owner", "ports", "text", "expected"),
    [
        (7, "{ }", IGD, True),
        (7, "{ 3c0-3df }", IGD, True),
        (7, "{ 3b0-3bb, 3c0-3df }", IGD, False),
        (None, "{ }", IGD, False),
        (8, "{ }", IGD, False),
        (7, "{ }", 'pci=["00:02.0"]\nioports=["2f8-2ff"]\n', False),
    ],
)
def test_whether_the_device_model_has_tried_in_vain(
    host: Host, config: Config, owner: int | None, ports: str, text: str, expected: bool
) -> None:
    laptop = host("igd-laptop")
    devices = tuple(d._replace(owner=owner and Domid(owner)) if d.bdf == Bdf(0, 0, 2, 0) else d for d in laptop.devices)
    plan = build(config(text), laptop._replace(devices=devices), Who(Domid(7)), BY_HAND)
    assert mapped_in_vain(plan, HeldRights(RangeSet.parse(ports))) is expected
    assert not mapped_in_vain(build(config(text), laptop._replace(devices=devices)), HeldRights())


def test_the_time_grows_with_the_number_of_ports_and_not_with_its_square(host: Host) -> None:
    """A quarter of the separate ranges that there can be take 0.2 s; with the square it would be a minute."""
    many = DomainConfig(type="hvm", ioports=tuple(Range(port, port + 1) for port in range(0, 0x4000, 2)))
    began = time.process_time()
    plan = build(many, host("server-bmc")._replace(devices=()))
    assert time.process_time() - began < 5
    assert len(plan.steps) == 0x4000
    assert plan.steps[0].shared
    assert plan.steps[-1].kept == RangeSet([(0x3FFE, 0x3FFF)])


def test_the_time_grows_with_the_number_of_devices_and_bars_and_not_with_its_square(host: Host) -> None:
    """2,000 functions with six BARs each take 0.1 s; with the square of the BARs it would be a minute."""
    laptop = host("igd-laptop")
    one = next(device for device in laptop.devices if device.bdf != Bdf(0, 0, 2, 0))
    many = []
    for number in range(2000):
        bars = [Resource(bar, at := (number * 6 + bar << 14) + (1 << 39), at + 0x1000, 0x200) for bar in range(5)]
        bars.append(Resource(5, at := 0x1000 + 8 * number, at + 8, 0x101))
        bdf = Bdf(0, 1 + (number >> 8), number >> 3 & 0x1F, number & 7)
        many.append(one._replace(bdf=bdf, resources=tuple(bars), driver=PCIBACK, owner=None))
    everything = laptop._replace(devices=tuple(sorted((*laptop.devices, *many))))
    passed = (Bdf(0, 0, 2, 0), *(device.bdf for device in many))
    config = DomainConfig(type="hvm", gfx_passthru="igd", stubdom=True, pci=tuple(map(PciAssignment, passed)))
    began = time.process_time()
    plan = build(config, everything)
    assert time.process_time() - began < 3
    assert not plan.refusals
    assert len(plan.by_libxl) >= 2000 * 6 * 2
    assert plan.steps


def test_what_libxl_grants_is_kept_by_domain_and_kind(host: Host, config: Config) -> None:
    """Numbers alone do not say whether they are ports or pages, and whose."""
    opregion = next(s.range for s in build(config(IGD), host("igd-laptop")).steps if "OpRegion" in s.reason)
    text = f'{IGD}{STUB}iomem=["{opregion.start:x},{opregion.nr:x}","3c0,20"]\nioports=["a0-bf"]\nxlplug_map_legacy=1\n'
    plan = build(config(text), host("igd-laptop"))
    kept = {(s.op, s.grantee, s.first): s.kept for s in plan.steps}
    assert kept["iomem_permission", "target", opregion.start] == RangeSet([opregion])
    assert kept["iomem_permission", "stubdom", opregion.start] == RangeSet(), "iomem= is for the guest alone"
    assert kept["ioport_permission", "target", 0x3C0] == RangeSet(), "page 3c0 is not port 3c0"
    assert kept["ioport_mapping", "target", 0x3C0] == RangeSet()
    assert (
        kept["ioport_permission", "target", 0xA0] == kept["ioport_mapping", "target", 0xA0] == RangeSet([(0xA0, 0xC0)])
    )
    assert kept["iomem_permission", "target", 0xA0] == RangeSet([(0xA0, 0xC0)])


@pytest.mark.parametrize(
    ("resource", "why"),
    [
        (
            Resource(0, 0xB8000, 0xB9000, 0x200),
            "VGA frame buffer iomem a0-bf for 0000:00:02.0 is also a BAR of 0000:05:00.0",
        ),
        (
            Resource(0, 0x3D0, 0x3D8, 0x101),
            "VGA ports, colour and attributes ioport 3c0-3df for 0000:00:02.0 is also a BAR",
        ),
        (Resource(7, 0xBF000, 0xC0800, 0x200), "VGA frame buffer iomem a0-bf for 0000:00:02.0 is also a BAR"),
        (Resource(0, 0xC0000, 0xC1000, 0x200), ""),
        (Resource(0, 0x9F000, 0xA0000, 0x200), ""),
        (Resource(0, 0x3BC, 0x3C0, 0x101), ""),
        (Resource(0, 0, 0xC0000, 0x20000200), ""),
    ],
)
def test_another_functions_bar_in_the_vga_ranges(host: Host, config: Config, resource: Resource, why: str) -> None:
    """Found by a property: firmware may put a BAR anywhere, and the guest would have that function's registers."""
    laptop = host("igd-laptop")
    other = PciDevice(Bdf.parse("0000:05:00.0"), 0x10EC, 0x8168, 0x020000, (resource,))
    plan = build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), laptop._replace(devices=(*laptop.devices, other)))
    assert [str(problem)[: len(why)] for problem in plan.refusals] == ([why] if why else [])


@pytest.mark.parametrize("version", ["", "qemu-xen", "qemu-xen-traditional"])
def test_another_device_model_is_refused_and_is_the_default_of_a_stubdomain(host: Host, version: str) -> None:
    text = f'type="hvm"\nmemory=64\n{IGD}{STUB}' + (f'device_model_version="{version}"\n' if version else "")
    plan = build(parse(text.encode(), "g.cfg"), host("igd-laptop"))
    assert [problem.code for problem in plan.refusals] == ([] if version == "qemu-xen" else ["XLP210"])


@pytest.mark.parametrize(("kind", "some"), [("hvm", True), ("pv", False)])
def test_only_an_hvm_guest_has_a_device_model_that_maps_bars(host: Host, kind: str, some: bool) -> None:
    plan = build(parse(f'type="{kind}"\nmemory=64\npci=["00:02.0"]\n'.encode(), "g.cfg"), host("igd-laptop"))
    assert bool(plan.delegated) == some
    assert plan.by_libxl


@pytest.mark.parametrize(("stubdom", "advice"), [("", "xlplug_rom="), (STUB, "put its VBIOS into the stubdomain")])
def test_the_advice_is_for_the_device_model_that_there_is(
    host: Host, config: Config, stubdom: str, advice: str
) -> None:
    laptop = host("igd-laptop")
    devices = tuple(d._replace(resources=tuple(r for r in d.resources if r.line != ROM_INDEX)) for d in laptop.devices)
    plan = build(config(IGD + stubdom), laptop._replace(devices=devices))
    assert [advice in problem.advice for problem in plan.warnings if problem.code == "XLP325"] == [True]
