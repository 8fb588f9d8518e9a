# SPDX-License-Identifier: LGPL-2.1-only
"""Which RAM the device model would populate, held to QEMU's own trace, and what is refused or left to it."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import RECORDED
from xlplug.config.domain import DomainConfig, Vif
from xlplug.config.from_libxl import from_libxl
from xlplug.model.addr import Domid
from xlplug.model.host import HostSnapshot
from xlplug.model.occasion import AHEAD, BY_HAND, RESTORING, RUNNING, Who
from xlplug.model.problem import Problem
from xlplug.model.rangeset import RangeSet
from xlplug.physmap import plan_physmap, predict, ram
from xlplug.plan import build

Host = Callable[[str], HostSnapshot]
Config = Callable[[str], DomainConfig]
TRACED = json.loads((RECORDED / "xen_ram_alloc.json").read_text())["rows"]
LOADED = "xlplug_preload=1\n"
STUB = 'device_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'


def as_config(row: dict[str, Any]) -> DomainConfig:
    """The traces had their NICs from device_model_args_hvm, since a vif needs a network."""
    return DomainConfig(
        type="hvm", preload=True, device_model_args=tuple(w for nic in row["nics"] for w in ("-device", nic)),
        **{key: row[key] for key in ("memory", "maxmem", "vga", "videoram", "mmio_hole")},
    )  # fmt: skip


def name(row: dict[str, Any]) -> str:
    return f"{row['memory']}/{row['maxmem']} {row['vga']} {row['videoram']} {row['mmio_hole']} {row['nics']}"


@pytest.mark.parametrize("row", TRACED, ids=name)
def test_what_qemu_was_seen_to_populate(row: dict[str, Any]) -> None:
    wanted = [(int(at, 16) >> 12, -(-int(size, 16) >> 12)) for at, size in row["blocks"]]
    config = as_config(row)
    as_vifs = config._replace(device_model_args=(), vifs=tuple(Vif(model=nic) for nic in row["nics"]))
    for made in (config, as_vifs):
        physmap = plan_physmap(made, Domid(7), has_stubdom=True, ram_left=None)
        assert [(s.first, s.nr) for s in physmap.steps] == wanted
        assert not physmap.notes
        assert not physmap.refusals, "QEMU can populate it, so can we, also in the MMIO hole"
        assert {(s.op, s.grantee, s.domid) for s in physmap.steps} <= {("populate_physmap", "target", 7)}
        assert not ram(made) & RangeSet(s.range for s in physmap.steps)


def test_there_are_eighteen_of_them() -> None:
    assert len(TRACED) == 18


def test_the_first_block_moves_above_4_gib_only_when_ram_does_not_fit() -> None:
    def first(memory: int) -> int:
        return predict(DomainConfig(type="hvm", memory=memory, maxmem=memory, vga="stdvga", videoram=16))[0][0].first

    assert [first(memory) for memory in (3855, 3856, 3857)] == [0xEFF00, 0xF0000, 0x100100]


def test_reasons_and_defaults(config: Config) -> None:
    text = f'{LOADED}vga="stdvga"\nvideoram=24\nvif=["model=e1000","","type=vif"]\n'
    blocks, why = predict(config(text))
    assert why == ""
    assert [(b.nr, b.reason) for b in blocks] == [
        (32 << 8, "video RAM"),  # QEMU rounds up to a power of two, libxl does not
        (16, "option ROM of the stdvga card"),
        (64, "option ROM of NIC 0 (e1000)"),
        (64, "option ROM of NIC 1 (rtl8139)"),
    ]
    assert blocks[0].first == (64 - 24) << 8


def test_against_qemus_own_algorithm() -> None:
    """find_ram_offset as QEMU has it: the smallest gap that fits, over all blocks, on many configurations."""
    rng = random.Random(4)
    for _ in range(2000):
        vga, videoram = rng.choice((("none", 0), ("stdvga", rng.randrange(16, 300)), ("cirrus", 8), ("qxl", 128)))
        nics = tuple(Vif(model=rng.choice(("e1000", "rtl8139"))) for _ in range(rng.randrange(5)))
        config = DomainConfig(
            type="hvm", maxmem=rng.choice((512, 2048, rng.randrange(3500, 4300), 9000)), vga=vga, videoram=videoram,
            vifs=nics, mmio_hole=rng.choice((None, 100, 256, 1024, 2560)),
        )  # fmt: skip
        low = min(0xF0000000, (1 << 32) - ((config.mmio_hole or 0) << 20))
        size = (config.maxmem - config.videoram) << 20
        made = [(0, size if size <= low else (1 << 32) + size - low)]
        for block in predict(config)[0]:
            offset, smallest = 0, 1 << 64
            for at, length in made:
                candidate = -(-(at + length) // 0x40000) * 0x40000
                gap = min((other for other, _ in made if other >= candidate), default=1 << 64) - candidate
                if block.nr << 12 <= gap < smallest:
                    offset, smallest = candidate, gap
            made.append((offset, block.nr << 12))
            assert block.first << 12 == offset


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('vga="cirrus"\nvideoram=32\n', "cirrus has 8 or 16 MiB"),
        ('vga="stdvga"\nvideoram=1024\n', "at most 512 MiB"),
        ('vga="qxl"\nvideoram=2048\n', "at most twice 512 MiB"),
        ('vif=["model=foo"]\n', "what a 'foo' needs is not known"),
        ('vga="stdvga"\ndevice_model_args=["-device","ivshmem-plain,memdev=m"]\n', "what a 'ivshmem-plain' needs"),
        ('vga="stdvga"\ndevice_model_args_hvm=["-device","e1000,romfile="]\n', "-device e1000,romfile="),
        ('vga="stdvga"\ndevice_model_args_hvm=["-global","VGA.vgamem_mb=4"]\n', "-global VGA.vgamem_mb=4"),
        ('vga="stdvga"\nrdm="strategy=host"\n', "rdm= moves guest RAM"),
        ('vga="stdvga"\ndevice_model_version="qemu-xen-traditional"\n', "qemu-xen-traditional"),
    ],
)
def test_what_cannot_be_known_is_left_to_the_device_model(config: Config, text: str, says: str) -> None:
    physmap = plan_physmap(config(LOADED + text), None, has_stubdom=False, ram_left=None)
    assert physmap.steps == physmap.refusals == ()
    assert says in str(physmap.notes[0])
    assert len(physmap.notes) == 1


def test_harmless_arguments_do_not_matter(config: Config) -> None:
    text = f'{LOADED}vga="stdvga"\ndevice_model_args_hvm=["-trace","xen_ram_alloc","-device","usb-tablet"]\n'
    assert len(plan_physmap(config(text), None, has_stubdom=False, ram_left=None).steps) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('vga="stdvga"\nmemory=3856\nvideoram=256\n', None),  # below the hole's end by far
        ('vga="stdvga"\nmemory=4096\nvideoram=256\n', "in the reserved pages below 4 GiB"),
        ('vga="stdvga"\nmemory=16\n', "in the guest's RAM"),
        ('vga="stdvga"\niomem=["f0000,10@3f00"]\n', "where iomem= maps"),
        ('vga="stdvga"\niomem=["3f00,10"]\n', "where iomem= maps"),
        ('vga="stdvga"\niomem=["f0000,10"]\n', None),
        (f'vga="stdvga"\nmemory={1 << 28}\n', "beyond what a guest can address"),
    ],
)
def test_what_would_lose_pages_or_crash_is_refused(config: Config, text: str, says: str | None) -> None:
    refusals = plan_physmap(config(LOADED + text), None, has_stubdom=False, ram_left=None).refusals
    if says is None:
        assert refusals == ()
    else:
        assert says in str(refusals[0])
        assert refusals[0].advice.startswith("change memory")


def test_refusals_reach_the_plan(config: Config, host: Host) -> None:
    plan = build(config(f'{LOADED}vga="stdvga"\nmemory=16\n'), host("server-bmc"))
    assert "in the guest's RAM" in str(plan.refusals[0])


def test_without_the_library_nothing_is_populated_and_a_note_says_why(config: Config, host: Host) -> None:
    plan = build(config(f'{STUB}vga="stdvga"\n'), host("server-bmc"))
    assert plan.steps == plan.warnings == plan.refusals == ()
    assert plan.notes == (
        Problem(
            "video RAM and option ROMs are left to the device model: xlplug_preload is not set",
            "write xlplug_preload=1 if its ramdisk has xlplug's preload library",
        ),
    )
    for text in ('vga="stdvga"\n', STUB, 'type="pv"\n' + LOADED):
        assert build(config(text), host("server-bmc")).notes == ()


@pytest.mark.parametrize("why", [RESTORING, RUNNING])
def test_nothing_is_populated_at_the_wrong_moment(config: Config, host: Host, why: Problem) -> None:
    plan = build(config(f'{LOADED}vga="stdvga"\n'), host("server-bmc"), Who(Domid(7)), AHEAD.without_ram(why))
    assert plan.steps == ()
    assert why.what in plan.notes[0].what


def test_a_caller_that_does_not_know_populates_nothing(config: Config, host: Host) -> None:
    assert build(config(f'{LOADED}vga="stdvga"\n'), host("server-bmc"), Who(Domid(7)), BY_HAND).steps == ()


def test_populating_comes_last_and_for_the_target(config: Config, host: Host) -> None:
    text = f'{LOADED}{STUB}vga="stdvga"\ngfx_passthru="igd"\npci=["00:02.0"]\nxlplug_map_legacy=1\n'
    plan = build(config(text), host("igd-laptop"), Who(Domid(7), Domid(8)))
    assert not plan.refusals
    assert plan.preload
    assert [str(s) for s in plan.steps if s.op == "populate_physmap"] == [
        str(s) for s in plan.steps[-2:]
    ] == [
        "populate target domid=7 gfn 3000-3fff",
        "populate target domid=7 gfn 4000-400f",
    ]  # fmt: skip


def test_populate_on_demand_alone_is_no_obstacle(config: Config, host: Host) -> None:
    """The 512 of 1024 MiB that were traced: no I/O rights, so PoD goes on."""
    plan = build(config(f'{LOADED}vga="stdvga"\nmaxmem=128\n'), host("server-bmc"))
    assert not plan.refusals
    assert plan.steps[0].first == (128 - 16) << 8


def test_the_settings_are_read(config: Config) -> None:
    made = config(f'{LOADED}device_model_args=["-D","x"]\ndevice_model_args_hvm=["-d","y"]\n')
    assert made.preload
    assert made.wants_legacy
    assert made.device_model_args == ("-D", "x", "-d", "y")
    assert not config("").preload
    libxl = from_libxl(
        {"c_info": {"type": "hvm"}, "b_info": {
            "extra": ["-D", "x"], "extra_hvm": ["-d", "y"], "type.hvm": {"rdm": {"strategy": "host"}},
        }}
    )  # fmt: skip
    assert libxl.device_model_args == ("-D", "x", "-d", "y")
    assert libxl.rdm
    assert not libxl.preload, "libxl does not keep what it does not know"


@pytest.mark.parametrize(
    ("vga", "videoram", "first"),
    [("stdvga", 512, 512 << 8), ("stdvga", 513, None), ("qxl", 1024, 512 << 8), ("qxl", 1026, None)],
)
def test_the_largest_video_ram(vga: str, videoram: int, first: int | None) -> None:
    memory = videoram + 64
    found, unknown = predict(DomainConfig(type="hvm", memory=memory, maxmem=memory, vga=vga, videoram=videoram))
    assert (found[0].nr if found else None) == first
    assert bool(unknown) == (first is None)
