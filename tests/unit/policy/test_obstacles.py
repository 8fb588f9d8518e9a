# SPDX-License-Identifier: LGPL-2.1-only
"""Each obstacle with what it is said of and what it is not, and the table that lists them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostNote, HostSnapshot, PciDevice, Resource, XenInfo
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range
from xlplug.obstacles import (
    OBSTACLES,
    Obstacle,
    Scene,
    bars_without_address,
    class_0380,
    does_not_answer,
    emulated_card,
    may_share_a_page,
    mmio_hole,
    no_igd_for_libxl,
    no_vbios,
    opregion_at_zero,
    rom_not_programmed,
    shared_pages,
    slot_2_needs_gfx_passthru,
    touching_port_bars,
)
from xlplug.plan import build, needs_whole_host

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
SHADOW = Resource(6, 0xC0000, 0xE0000, 0x212)
IGD, SLOT_3 = Bdf(0, 0, 2, 0), Bdf(0, 3, 0, 0)
HVM = DomainConfig(name="g", type="hvm", memory=2048, maxmem=2048, vga="none")
GFX, ONE = HVM._replace(gfx_passthru="igd"), HVM._replace(gfx_passthru="default")
GUEST = "host pages that are not one"


def device(bdf: Bdf = IGD, class_code: int = 0x030000, *resources: Resource, **others: object) -> PciDevice:
    made = PciDevice(bdf, 0x8086, 0x5916, class_code, resources or (SHADOW,), config=bytes(252) + b"\x18\xd0\x18\x7a")
    return made._replace(**others)  # type: ignore[arg-type]


def says(obstacle: Obstacle, config: DomainConfig, *devices: PciDevice, stub: bool = False, **host: object) -> str:
    """All that an obstacle says, devices being assigned one and all."""
    whole = HostSnapshot("h", devices, xen=XenInfo((4, 17), "4.17"))._replace(**host)  # type: ignore[arg-type]
    return "\n".join(map(str, obstacle(Scene(config, whole, devices, stub))))


def test_a_function_that_does_not_answer() -> None:
    gone = device(config=b"\xff" * 256)
    assert "0000:00:02.0: it does not answer" in says(does_not_answer, HVM, gone)
    assert says(opregion_at_zero, GFX, gone) == "", "one thing is wrong"
    assert says(does_not_answer, HVM, gone._replace(config=b"\xff" * 15)) == ""
    virtual = device(SLOT_3, 0x020000, config=b"\xff" * 4 + bytes(60), physfn=IGD)
    assert says(does_not_answer, HVM, virtual, device(config=b"")) == "", "a virtual function has no ids of its own"


def test_every_correct_configuration_gives_no_warning(host: Host, config: Config) -> None:
    for name, bdf in (("igd-laptop", "00:02.0"), ("igd-opregion-aligned", "00:02.0"), ("discrete-amd", "07:00.0")):
        for more in ("", "device_model_stubdomain_override=1\n"):
            plan = build(config(f'gfx_passthru="igd"\npci=["{bdf}"]\n{more}'), host(name))
            assert (plan.warnings, plan.refusals) == ((), ()), name
    for name, pci in (("second-card", "02:00.0"), ("hybrid-nvidia", "01:00.0"), ("sriov-igd", "00:02.1")):
        plan = build(config(f'pci=["{pci}"]\n'), host(name))
        assert (plan.warnings, plan.refusals) == ((), ()), name


@pytest.mark.parametrize(
    ("config", "assigned", "wanted"),
    [
        (HVM, device(), 'write gfx_passthru="igd"'),
        (HVM, device(vendor=0x1002), 'write gfx_passthru="igd"'),
        (GFX, device(), ""),
        (HVM, device(SLOT_3), ""),
        (GFX, device(IGD, 0x020000), "refuses anything else there"),
        (HVM, device(IGD, 0x030200), "refuses anything else there"),
        (HVM, device(IGD, 0x038000), 'write gfx_passthru="igd"'),
    ],
)
def test_slot_2(config: DomainConfig, assigned: PciDevice, wanted: str) -> None:
    found = says(slot_2_needs_gfx_passthru, config, assigned)
    assert wanted in found
    assert bool(found) == bool(wanted)


@pytest.mark.parametrize(
    ("assigned", "wanted"),
    [
        (device(IGD, 0x038000), True),
        (device(IGD, 0x030000), False),
        (device(SLOT_3, 0x038000), False),
        (device(IGD, 0x038000, vendor=0x1002), False),
    ],
)
def test_class_0380(assigned: PciDevice, wanted: bool) -> None:
    assert ("stock QEMU refuses class 0380" in says(class_0380, GFX, assigned)) == wanted
    assert ("stock QEMU refuses class 0380" in says(class_0380, HVM, assigned)) == wanted


@pytest.mark.parametrize(
    ("config", "devices", "version", "wanted"),
    [
        (ONE, (device(),), (4, 17), ""),
        (GFX, (device(IGD, 0x038000),), (4, 17), ""),
        (ONE, (device(IGD, 0x038000),), (4, 19), "libxl before 4.20"),
        (ONE, (device(IGD, 0x038000),), (4, 20), ""),
        (ONE, (device(vendor=0x1002),), (4, 20), "xl itself refuses"),
        (ONE, (device(SLOT_3, vendor=0x10DE), device()), (4, 20), ""),
        (ONE, (device(SLOT_3, 0x020000),), (4, 20), ""),  # nothing to pass: refused elsewhere
        (HVM, (device(vendor=0x1002),), (4, 20), ""),
    ],
)
def test_gfx_passthru_1(
    config: DomainConfig, devices: tuple[PciDevice, ...], version: tuple[int, int], wanted: str
) -> None:
    found = says(no_igd_for_libxl, config, *devices, xen=XenInfo(version, "x"))
    assert wanted in found
    assert bool(found) == bool(wanted)
    assert ('write gfx_passthru="igd"' in found) == bool(wanted)


def test_an_unknown_version_is_taken_for_an_old_one_and_for_a_new_one() -> None:
    assert "libxl before 4.20" in says(no_igd_for_libxl, ONE, device(IGD, 0x038000), xen=None)
    pair = device(SLOT_3, 0x020000, Resource(0, 0xC000, 0xC010, 0x101), Resource(1, 0xC010, 0xC020, 0x101))
    assert "touch at port c010" in says(touching_port_bars, HVM, pair, xen=None)


@pytest.mark.parametrize(
    ("config", "assigned", "stub", "wanted"),
    [
        (GFX, device(IGD, 0x030000, Resource(0, 0xDB000000, 0xDC000000, 0x140204)), False, "no ROM in sysfs"),
        (GFX, device(IGD, 0x030000, Resource(6, 0, 0x20000, 0x212)), False, "no ROM in sysfs"),
        (GFX, device(IGD, 0x030000, Resource(0, 0xDB000000, 0xDC000000, 0x140204)), True, "into the stubdomain"),
        (GFX._replace(rom="/v.rom"), device(IGD, 0x030000, Resource(0, 1 << 28, 1 << 29, 0x140204)), False, ""),
        (GFX._replace(rom="/v.rom"), device(IGD, 0x030000, Resource(0, 1 << 28, 1 << 29, 0x140204)), True, "no ROM"),
        (GFX, device(), False, "it has burnt; buy another"),
        (GFX, device(IGD, 0x030000, Resource(6, 0xDD000000, 0xDD010000, 0x40212)), False, ""),
        (HVM, device(), False, ""),
        (GFX, device(SLOT_3), False, ""),
    ],
)
def test_the_vbios_that_qemu_wants(config: DomainConfig, assigned: PciDevice, stub: bool, wanted: str) -> None:
    notes = (HostNote("vbios", Problem("it has burnt", "buy another")),)
    found = says(no_vbios, config, assigned, stub=stub, notes=notes)
    assert wanted in found
    assert bool(found) == bool(wanted)


@pytest.mark.parametrize(
    ("register", "resources", "wanted"),
    [
        (0, (Resource(6, 0xDD000000, 0xDD010000, 0x40212),), True),
        (0xDD000001, (Resource(6, 0xDD000000, 0xDD010000, 0x40212),), False),
        (0xDD000000, (Resource(6, 0xDD000000, 0xDD010000, 0x40212),), False),
        (0xDD000800, (Resource(6, 0xDD000000, 0xDD010000, 0x40212),), True),
        (0, (SHADOW,), False),
        (0, (Resource(6, 0, 0x10000, 0x40212),), False),
        (0, (Resource(0, 0xDD000000, 0xDD010000, 0x40200),), False),
    ],
)
def test_a_rom_that_is_not_programmed(register: int, resources: tuple[Resource, ...], wanted: bool) -> None:
    config = bytes(0x30) + register.to_bytes(4, "little") + bytes(0xCC)
    card = device(SLOT_3, 0x030000, *resources, config=config)
    assert ("echo 1 >/sys/bus/pci/devices/0000:03:00.0/rom" in says(rom_not_programmed, HVM, card)) == wanted
    assert says(rom_not_programmed, HVM, card._replace(config=config[:0x33])) == ""
    assert says(rom_not_programmed, HVM, card._replace(class_code=0x020000)) == ""


@pytest.mark.parametrize(
    ("config", "assigned", "stub", "wanted"),
    [
        (GFX, device(SLOT_3, config=bytes(256)), False, f"gives the guest {GUEST}; remove gfx_passthru"),
        (GFX, device(SLOT_3, config=bytes(256)), True, f"asks in vain for {GUEST}; remove gfx_passthru"),
        (GFX, device(config=bytes(256)), False, "update the firmware"),
        (GFX, device(config=bytes(252) + b"\xff" * 4), False, "register fc is ffffffff"),
        (GFX, device(), False, ""),
        (GFX, device(config=bytes(64)), False, ""),
        (GFX, device(SLOT_3, config=bytes(256), vendor=0x1002), False, ""),
        (GFX, device(SLOT_3, 0x038000, config=bytes(256)), False, ""),
        (HVM, device(SLOT_3, config=bytes(256)), False, ""),
    ],
)
def test_an_opregion_at_0(config: DomainConfig, assigned: PciDevice, stub: bool, wanted: str) -> None:
    found = says(opregion_at_zero, config, assigned, stub=stub)
    assert wanted in found
    assert bool(found) == bool(wanted)


def test_a_card_without_an_opregion_beside_an_igd() -> None:
    card = device(SLOT_3, config=bytes(256))
    assert "give this card to another guest" in says(opregion_at_zero, GFX, device(), card)
    assert "another guest" not in says(opregion_at_zero, GFX, card)


def test_an_emulated_card() -> None:
    assert 'write vga="none"' in says(emulated_card, GFX._replace(vga="cirrus"), device())
    assert says(emulated_card, GFX, device()) == ""
    assert says(emulated_card, HVM._replace(vga="cirrus"), device()) == "", "a second card beside it is in order"
    assert says(emulated_card, GFX._replace(vga="cirrus"), device(SLOT_3, 0x020000)) == ""


MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory", "hole", "mib", "flags", "wanted"),
    [
        (4096, None, 128, 0x40200, ""),
        (4096, None, 256, 0x40200, "write mmio_hole=512"),
        (4096, None, 256, 0x14220C, ""),  # 64 bits: hvmloader moves it above 4 GiB
        (4096, None, 256, 0x40101, ""),  # ports
        (4096, 512, 256, 0x40200, ""),
        (4096, 256, 256, 0x40200, "write mmio_hole=512"),
        (4096, 512, 512, 0x40200, "write mmio_hole=768"),
        (2048, None, 1024, 0x40200, ""),  # the hole grows where there is no RAM
        (2049, None, 1024, 0x40200, "write mmio_hole=1280"),
        (3072, None, 512, 0x40200, ""),
        (3073, None, 512, 0x40200, "write mmio_hole=768"),
        (3584, None, 256, 0x40200, ""),
        (3585, None, 256, 0x40200, "write mmio_hole=512"),
        (4096, None, 3700, 0x40200, "assign fewer devices"),
        (4096, None, 160, 0x40200, "write mmio_hole=512"),  # rounded up to a power of two
    ],
)
def test_the_mmio_hole(memory: int, hole: int | None, mib: int, flags: int, wanted: str) -> None:
    config = HVM._replace(memory=memory, maxmem=memory, mmio_hole=hole)
    found = says(mmio_hole, config, device(SLOT_3, 0x020000, Resource(0, 0x80000000, 0x80000000 + mib * MIB, flags)))
    assert wanted in found
    assert bool(found) == bool(wanted)


def test_the_largest_hole() -> None:
    def needs(*mib: int) -> str:
        bars = (Resource(line, 1 << 20, (1 << 20) + size * MIB, 0x40200) for line, size in enumerate(mib))
        return says(mmio_hole, HVM._replace(memory=4096, maxmem=4096), device(SLOT_3, 0x020000, *bars))

    assert "write mmio_hole=3840" in needs(2048, 1024, 512)
    assert "assign fewer devices" in needs(2048, 1024, 512, 256)


def test_what_else_is_in_the_hole() -> None:
    just = device(
        SLOT_3,
        0x020000,
        Resource(0, 1 << 31, (1 << 31) + 128 * MIB, 0x40200),
        Resource(1, 1 << 30, (1 << 30) + 32 * MIB, 0x40200),
    )
    config = HVM._replace(memory=4096, maxmem=4096)
    assert says(mmio_hole, config, just) == ""
    rom = just._replace(resources=(*just.resources, Resource(6, 1 << 29, (1 << 29) + 32 * MIB, 0x46200)))
    assert "mmio_hole=512" in says(mmio_hole, config, rom)
    full = just._replace(resources=(*just.resources, Resource(6, 1 << 29, (1 << 29) + 16 * MIB, 0x46200)))
    assert says(mmio_hole, config, full) == "", "128 + 32 + 16, and 16 for the platform device: to the last byte"
    assert "mmio_hole=512" in says(mmio_hole, config._replace(vga="stdvga", videoram=32), just)
    assert says(mmio_hole, config, device(SLOT_3, 0x020000, Resource(7, 1 << 31, 1 << 32, 0x40200))) == "", (
        "its VFs' BARs"
    )


def test_pages_shared_with_a_function_that_is_not_assigned() -> None:
    mine = device(SLOT_3, 0x020000, Resource(0, 0xF7000000, 0xF7000400, 0x40200))
    beside = device(Bdf(0, 0, 0x1F, 6), 0x0C0300, Resource(2, 0xF7000C00, 0xF7001000, 0x40200))
    host = {"devices": (mine, beside)}
    found = says(shared_pages, HVM, mine, **host)
    assert "0000:03:00.0 (BAR 0) shares page f7000 with 0000:00:1f.6 (BAR 2), which is not assigned" in found
    assert says(shared_pages, HVM, mine, beside) == "", "both are assigned"
    for other in (
        beside._replace(resources=(Resource(2, 0xF7001000, 0xF7001400, 0x40200),)),
        beside._replace(resources=(Resource(2, 0xF7000C00, 0xF7001000, 0x40101),)),
        beside._replace(resources=(Resource(6, 0xF7000C00, 0xF7001000, 0x40200),)),
        beside._replace(resources=(Resource(2, 0xF7000C00, 0xF7001000, 0x20040200),)),
    ):
        assert says(shared_pages, HVM, mine, devices=(mine, other)) == ""
    long = mine._replace(resources=(Resource(0, 0xF6FFE000, 0xF7000400, 0x40200),))
    assert "page f7000" in says(shared_pages, HVM, long, devices=(long, beside)), "its last page"


def test_which_plans_need_the_whole_host() -> None:
    half, whole = (
        device(SLOT_3, 0x020000, Resource(0, 0xF7000000, stop, 0x40200)) for stop in (0xF7000400, 0xF7001000)
    )
    assert may_share_a_page(half)
    assert not may_share_a_page(whole)
    assert may_share_a_page(whole._replace(resources=(Resource(0, 0xF7000800, 0xF7001000, 0x40200),)))
    assert needs_whole_host(HVM, (whole, half))
    assert not needs_whole_host(HVM, (whole,))
    assert needs_whole_host(GFX, (whole,))
    assert not needs_whole_host(GFX, ())
    assert needs_whole_host(HVM._replace(ioports=(Range(0x3DF, 0x3E0),)), ())
    assert needs_whole_host(HVM._replace(ioports=(Range(0x3E0, 0x400),)), ()), "they may be a BAR of anybody's"
    assert not needs_whole_host(HVM._replace(type="pv", ioports=(Range(0x3C0, 0x3E0),)), ())
    assert not needs_whole_host(GFX._replace(type="pv"), (half,))


@pytest.mark.parametrize(
    ("first", "second", "version", "wanted"),
    [
        ((0xC000, 0xC010), (0xC010, 0xC020), (4, 23), True),
        ((0xC000, 0xC011), (0xC010, 0xC020), (4, 23), True),
        ((0xC000, 0xC00F), (0xC010, 0xC020), (4, 23), False),
        ((0xC000, 0xC010), (0xC010, 0xC020), (4, 22), False),
        ((0, 0x80), (0, 0x80), (4, 23), False),
    ],
)
def test_touching_io_bars(
    first: tuple[int, int], second: tuple[int, int], version: tuple[int, int], wanted: bool
) -> None:
    one = device(SLOT_3, 0x020000, Resource(1, *first, 0x40101))
    two = device(Bdf(0, 4, 0, 0), 0x020000, Resource(1, *second, 0x40101))
    assert ("refuse the second mapping" in says(touching_port_bars, HVM, two, one, xen=XenInfo(version, "x"))) == wanted


def test_bars_without_an_address() -> None:
    card = device(
        SLOT_3, 0x030200,
        Resource(0, 0x90000000, 0x91000000, 0x40200), Resource(1, 0, 1 << 35, 0x2014220C), Resource(5, 0, 0x80, 0x20040101),
    )  # fmt: skip
    found = says(bars_without_address, HVM, card)
    assert "gave BAR 1, 5 (I/O) no address" in found
    assert "above-4G decoding" in found
    assert says(bars_without_address, HVM, card._replace(resources=card.resources[:1])) == ""
    assert says(bars_without_address, HVM, card._replace(resources=(Resource(6, 0, 0x10000, 0x20046200),))) == ""


def test_only_an_hvm_guest_has_obstacles(host: Host, config: Config) -> None:
    for kind, wanted in (("hvm", True), ("pv", False)):
        plan = build(config(f'type="{kind}"\npci=["00:02.0"]\n'), host("igd-laptop"))
        assert bool(plan.warnings) == wanted


def test_the_table_in_the_docs_has_a_row_for_each() -> None:
    text = (Path(__file__).parents[3] / "docs" / "obstacles.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)` \|", text)
    assert rows == [obstacle.__name__ for obstacle in OBSTACLES]
