# SPDX-License-Identifier: LGPL-2.1-only
"""The OpRegion: three pages from its address, each held against the host's map, and nothing that a header claims."""

from collections.abc import Callable

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.igd import ASLS, IGD, header_fault, is_igd, page_fault, vbt_span
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostNote, HostSnapshot, MemRegion, OpRegion, PciDevice, Resource
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range
from xlplug.plan import Plan, build

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
PASSED = 'gfx_passthru="igd"\npci=["00:02.0"]\n'
STUB = "device_model_stubdomain_override=1\n"
GOOD = OpRegion(0x7A18D018, b"IntelGraphicsMem", 8192, 0x0200)


def opregions(plan: Plan, grantee: str = "target") -> list[tuple[int, int]]:
    return [(s.first, s.nr) for s in plan.steps if s.grantee == grantee and "OpRegion" in s.reason]


def at(host: HostSnapshot, address: int) -> HostSnapshot:
    """The host, with its OpRegion and a good header at another address."""
    raw = address.to_bytes(4, "little")
    devices = tuple(d._replace(config=d.config[:ASLS] + raw) if d.bdf == IGD else d for d in host.devices)
    return host._replace(devices=devices, opregion=GOOD._replace(maddr=address))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("igd-laptop", 0x7A18D),
        ("igd-opregion-aligned", 0x7A1A4),
        ("igd-opregion-aligned-2-1", 0x7A1A4),
        ("igd-opregion-hostile", 0x7A18D),
        ("igd-opregion-2-0-rvda", 0x7A18D),
        ("raptor-lake", 0x6FBD4),
    ],
)
def test_it_is_always_the_three_pages_that_qemu_maps(host: Host, config: Config, name: str, first: int) -> None:
    plan = build(config(PASSED + STUB), host(name))
    assert not plan.refusals
    assert opregions(plan) == opregions(plan, "stubdom") == [(first, 3)]


@pytest.mark.parametrize(
    ("name", "warns"),
    [
        ("igd-laptop", False),
        ("igd-opregion-aligned", False),
        ("igd-opregion-aligned-2-1", True),
        ("igd-opregion-2-0-rvda", True),
        ("igd-opregion-hostile", True),
        ("raptor-lake", True),
    ],
)
def test_a_vbt_beyond_these_pages_is_a_warning(host: Host, config: Config, name: str, warns: bool) -> None:
    found = [str(w) for w in build(config(PASSED), host(name)).warnings if "its VBT" in w.what]
    assert len(found) == warns
    assert all("vbt_firmware=VBT" in text and "xlplug record host --vbt VBT" in text for text in found)


@pytest.mark.parametrize(
    ("version", "rvda", "rvds", "warns"),
    [
        (0x0201, 0x2000, 0x0FE8, False),  # to the last byte of the third page
        (0x0201, 0x2000, 0x0FE9, True),
        (0x0200, 0x7A18F000, 0x1000, False),  # absolute, the third page
        (0x0200, 0x7A18F000, 0x1001, True),
        (0x0200, 0x7A18CFFF, 1, True),  # in front of the first
        (0x0200, 0x7A18D000, 1, False),
        (0x01FF, 0x7A200000, 0x1000, False),  # an older version has no such field
        (0x0201, 0, 0x9000, False),
        (0x0201, 0x9000, 0, False),
        (0x0201, (1 << 64) - 1, (1 << 32) - 1, True),
    ],
)
def test_where_a_vbt_ends(host: Host, config: Config, version: int, rvda: int, rvds: int, warns: bool) -> None:
    laptop = host("igd-laptop")
    region = GOOD._replace(version=version, rvda=rvda, rvds=rvds)
    plan = build(config(PASSED), laptop._replace(opregion=region))
    assert any("its VBT" in w.what for w in plan.warnings) == warns
    assert opregions(plan) == [(0x7A18D, 3)], "the header decides nothing"


def test_the_span_of_a_vbt() -> None:
    assert vbt_span(GOOD._replace(version=0x0200, rvda=0x1000, rvds=0x20)) == Range(0x1000, 0x1020)
    assert vbt_span(GOOD._replace(version=0x0201, rvda=0x1000, rvds=0x20)) == Range(0x7A18E018, 0x7A18E038)


def test_stock_qemu_in_a_stubdomain_needs_the_preload_library(host: Host, config: Config) -> None:
    def noted(text: str, name: str = "igd-laptop") -> bool:
        return any("leaves the OpRegion out" in note.what for note in build(config(text), host(name)).notes)

    assert noted(PASSED + STUB)
    assert not noted(PASSED)
    assert not noted(PASSED + STUB + "xlplug_preload=1\n")
    assert not noted(PASSED + STUB, "igd-opregion-third-page"), "there is none to leave out"


@pytest.mark.parametrize(("stub", "says"), [("", "a QEMU in dom0 maps it all the same"), (STUB, "refuses that call")])
def test_without_its_third_page_there_is_no_opregion(host: Host, config: Config, stub: str, says: str) -> None:
    plan = build(config(PASSED + stub), host("igd-opregion-third-page"))
    assert not plan.refusals
    assert opregions(plan) == []
    warning = next(str(w) for w in plan.warnings if "three pages" in w.what)
    assert "the third one, 7a1a6, is RAM" in warning
    assert says in warning
    assert {s.first for s in plan.steps} >= {0xA0, 0x3B0, 0x3C0}, "the rest is granted"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (0x40000000, "page 40000 is RAM"),
        (0x7A18D018 - 0x90000, "page 7a0fd is E820 type 3"),
        (0x7B000018, "page 7b000 is in no entry of the E820 map"),
        (0xE0000000, "page e0000 is a register of PCI configuration (MMCFG)"),
        (0xFEC00000, "page fec00 is a register of the chipset"),
        (0xFF000000, "page ff000 is a register of the chipset"),
    ],
)
def test_pages_that_are_never_an_opregion(host: Host, config: Config, address: int, says: str) -> None:
    there = at(host("igd-laptop"), address)
    plan = build(config(PASSED), there)
    assert says in str(plan.refusals[0])
    assert "update the firmware" in plan.refusals[0].advice
    assert "gfx_passthru" not in str(plan.refusals[0]), "QEMU refuses this display without it"
    assert opregions(plan) == []


def test_each_page_by_itself_is_in_one_entry(host: Host, config: Config) -> None:
    """NVS ends after the first page, and a reserved entry begins."""
    assert opregions(build(config(PASSED), at(host("igd-laptop"), 0x7A7FE000))) == [(0x7A7FE, 3)]


def test_a_page_is_in_one_entry_of_the_right_type_or_it_is_none() -> None:
    def fault(*memory: MemRegion, mfn: int = 0x100, **others: object) -> str:
        return page_fault(mfn, HostSnapshot("h", memory=memory)._replace(**others))  # type: ignore[arg-type]

    whole = MemRegion(0x100000, 0x101000, 2)
    assert fault(whole) == ""
    assert fault(whole._replace(kind=4)) == ""
    for kind in (3, 5, 7, 12, 16, 0, 0xEFFFFFFF):
        assert fault(whole._replace(kind=kind)) == f"E820 type {kind}"
    assert fault(whole._replace(kind=1)) == "RAM"
    assert fault(whole._replace(stop=0x100FFF)) == fault(whole._replace(start=0x100001)) != ""
    assert "not wholly in one entry" in fault(MemRegion(0x100000, 0x100800, 2), MemRegion(0x100800, 0x101000, 2))
    assert "RAM" in fault(whole, MemRegion(0x100FFF, 0x200000, 1)), "an entry that overlaps"
    assert fault(whole, mfn=0xFF) == fault(whole, mfn=0x101) == "in no entry of the E820 map"


def bar(line: int, start: int, stop: int, flags: int = 0x40200) -> tuple[Resource, ...]:
    return (Resource(line, start, stop, flags),)


@pytest.mark.parametrize(
    ("device", "is_register"),
    [
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x020000, bar(0, 0x7A18F000, 0x7A190000)), True),
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x020000, bar(6, 0x7A18FFFF, 0x7A190000)), True),
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x020000, bar(9, 0x7A18F000, 0x7A190000)), True),  # of its virtual functions
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x020000, bar(0, 0x7A190000, 0x7A191000)), False),
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x020000, bar(0, 0x7A18C000, 0x7A18D000)), False),
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x020000, bar(0, 0x7A18F000, 0x7A190000, 0x101)), False),  # ports
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x020000, bar(0, 0x7A18F000, 0x7A190000, 0x20040200)), False),  # no address
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x060400, bar(8, 0x7A000000, 0x7B000000)), False),  # a bridge's window
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x060400, bar(0, 0x7A18F000, 0x7A190000)), True),
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x060400, bar(6, 0x7A18F000, 0x7A190000)), True),
        (PciDevice(Bdf(0, 3, 0, 0), 1, 2, 0x060400, bar(7, 0x7A18F000, 0x7A190000)), False),
    ],
)
def test_any_functions_registers_are_kept_out(host: Host, config: Config, device: PciDevice, is_register: bool) -> None:
    laptop = host("igd-laptop")
    plan = build(config(PASSED), laptop._replace(devices=(*laptop.devices, device)))
    assert (opregions(plan) == []) == is_register
    assert any("register of 0000:03:00.0" in w.what for w in plan.warnings) == is_register


def test_the_configuration_window_is_where_acpi_says(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    elsewhere = laptop._replace(mmcfg=(Range(0x7A18E000, 0x7A18F000),))
    assert "register of PCI configuration" in str(build(config(PASSED), elsewhere).refusals[0])
    there = at(laptop, 0xE0000000)._replace(mmcfg=(Range(0xC0000000, 0xD0000000),))
    assert opregions(build(config(PASSED), there)) == [(0xE0000, 3)], "what ACPI says counts, and not the guess"


@pytest.mark.parametrize(
    ("start", "size", "kind", "guessed"),
    [
        (0xB0000000, 0x10000000, 2, True),
        (0x80000000, 0x10000000, 2, True),
        (0xF8000000, 0x04000000, 2, True),
        (0xE0000000, 0x08000000, 2, True),
        (0x70000000, 0x10000000, 2, False),  # below the RAM's end
        (0xE8000000, 0x10000000, 2, False),  # not aligned to its size
        (0xE0000000, 0x20000000, 2, False),
        (0xE0000000, 0x10000000, 4, False),
    ],
)
def test_where_acpi_is_silent_a_window_is_guessed(start: int, size: int, kind: int, guessed: bool) -> None:
    host = HostSnapshot("h", memory=(MemRegion(start, start + size, kind),))
    assert ("MMCFG" in page_fault(start >> 12, host)) == guessed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"signature": b"IntelGraphicsMen"}, "no OpRegion signature"),
        ({"size": 0}, "claims 0 bytes, not 8192"),
        ({"size": 8191}, "claims 8191 bytes"),
        ({"size": 16384}, "claims 16384 bytes"),
        ({"maddr": 0x7A18E000}, "record the host again"),
    ],
)
def test_headers_that_are_not_one(host: Host, config: Config, change: dict[str, int], says: str) -> None:
    laptop = host("igd-laptop")
    plan = build(config(PASSED), laptop._replace(opregion=GOOD._replace(**change)))  # type: ignore[arg-type]
    assert says in str(plan.refusals[0])
    assert {s.first for s in plan.steps} == {0xA0, 0x3B0, 0x3C0}
    assert header_fault(GOOD) == header_fault(GOOD._replace(signature=b"IntelGraphicsMem\0")) == ""


def test_an_address_that_changes_while_the_host_runs_is_refused(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    assert not build(config(PASSED), laptop._replace(opregion_pin=0x7A18D018)).refusals
    moved = build(config(PASSED), laptop._replace(opregion_pin=0x7A18E018))
    assert "it was at 7a18e018 when it was first seen since boot" in str(moved.refusals[0])
    assert opregions(moved) == []
    overwritten = laptop._replace(opregion_pin=0x7A18D018, opregion=GOOD._replace(signature=b"x" * 16))
    assert "a guest has overwritten it" in str(build(config(PASSED), overwritten).refusals[0])


@pytest.mark.parametrize("asls", [0, 0xFFFFFFFF])
def test_without_an_opregion_qemu_maps_something_else(host: Host, config: Config, asls: int) -> None:
    plan = build(config(PASSED), at(host("igd-laptop"), asls)._replace(opregion=None))
    assert not plan.refusals
    assert opregions(plan) == []
    assert any(f"register fc is {asls:x}" in w.what for w in plan.warnings)


def test_what_could_not_be_read_is_refused(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    assert "run xlplug as root" in str(build(config(PASSED), laptop._replace(opregion=None)).refusals[0])
    assert "where the host's memory map is known" in str(build(config(PASSED), laptop._replace(memory=())).refusals[0])
    short = tuple(d._replace(config=d.config[:64]) for d in laptop.devices)
    assert "register fc (OpRegion) cannot be read" in str(
        build(config(PASSED), laptop._replace(devices=short)).refusals[0]
    )
    note = HostNote("opregion", Problem("the disk is full", "empty it"))
    told = build(config(PASSED), laptop._replace(opregion=None, notes=(note,)))
    assert str(told.refusals[0]).endswith("the disk is full; empty it [XLP401]")


def test_which_function_is_an_igd(host: Host) -> None:
    display = next(d for d in host("igd-laptop").devices if d.bdf == IGD)
    assert is_igd(display)
    assert is_igd(display._replace(class_code=0x038000))
    assert not is_igd(display._replace(bdf=Bdf(0, 3, 0, 0)))
    assert not is_igd(display._replace(vendor=0x1002))
    assert not is_igd(display._replace(class_code=0x030200))
    assert not is_igd(display._replace(physfn=Bdf(0, 0, 1, 0)))


@pytest.mark.parametrize(
    ("size", "stop", "pages"),
    [
        (0x20000, 0xE0000, 0x20),
        (0x20200, 0xF0000, 0),
        (0x10000, 0xD0000, 0x10),
        (0x10200, 0xD0000, 0),
        (0x200, 0xE0000, 1),
        (0, 0xE0000, 0),
    ],
)
def test_how_much_of_the_vbios_shadow(host: Host, config: Config, size: int, stop: int, pages: int) -> None:
    laptop = host("igd-laptop")
    assert laptop.vbios is not None
    rom = (Resource(6, 0xC0000, stop, 0x212),)
    devices = tuple(d._replace(resources=rom) if d.bdf == IGD else d for d in laptop.devices)
    plan = build(config(PASSED + STUB), laptop._replace(devices=devices, vbios=laptop.vbios._replace(size=size)))
    assert [s.nr for s in plan.steps if s.first == 0xA0 and s.grantee == "stubdom"] == [0x20 + pages]
    assert any("VBIOS shadow not granted" in w.what for w in plan.warnings) == (pages == 0)


def test_whose_vbios_it_is(host: Host, config: Config) -> None:
    laptop = host("igd-laptop")
    assert laptop.vbios is not None
    for change, says in (
        ({"vendor": 0x1002}, "made for vendor 1002"),
        ({"maddr": 0xC8000}, "claims 64512 bytes at c8000"),
    ):
        plan = build(config(PASSED + STUB), laptop._replace(vbios=laptop.vbios._replace(**change)))
        assert any(says in w.what for w in plan.warnings)
        assert [s.nr for s in plan.steps if s.first == 0xA0 and s.grantee == "stubdom"] == [0x20]
    unread = build(config(PASSED + STUB), laptop._replace(vbios=None))
    assert any("its header was not read" in w.what for w in unread.warnings)
