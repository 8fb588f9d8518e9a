# SPDX-License-Identifier: LGPL-2.1-only
"""The config space that a guest sees, and which BARs it decodes: PCI Local Bus Specification 3.0, 6.1 and 6.2."""

import random

import pytest

from xlplug.delegate.config_space import CONFIG_BYTES, ConfigSpace
from xlplug.model.bar import IO, MEMORY32, MEMORY64, Bar, bars_of, unfit
from xlplug.model.bdf import Bdf
from xlplug.model.host import PciDevice, Resource

HEADER = (
    bytes.fromhex("34121111 07051000 03000203 10408020")
    + bytes(28)
    + bytes.fromhex("f41a0011 00000cfe 40000000 00000000 0b010203")
)
BARS = (
    Bar(0, MEMORY32, 0xFEA00000, 0xFEB00000),
    Bar(1, IO, 0xC000, 0xC100),
    Bar(2, MEMORY64, 0x3800000000, 0x3801000000, prefetch=True),
    Bar(4, MEMORY32, 0xFEB10100, 0xFEB10200),
)
#: What is read-only: everything but these, with the bits that can be set.
WRITABLE = {0x04: 0x07, 0x05: 0x04, 0x0C: 0xFF, 0x0D: 0xFF, 0x3C: 0xFF}
BAR_MASKS = {0x12: 0xF0, 0x13: 0xFF, 0x15: 0xFF, 0x16: 0xFF, 0x17: 0xFF, 0x1B: 0xFF, 0x1C: 0xFF, 0x1D: 0xFF, 0x1E: 0xFF,
             0x1F: 0xFF, 0x21: 0xFF, 0x22: 0xFF, 0x23: 0xFF}  # fmt: skip


def space(store: bytearray | None = None, **options: bool) -> ConfigSpace:
    return ConfigSpace(HEADER, BARS, bytearray(CONFIG_BYTES) if store is None else store, **options)


def live(config: ConfigSpace) -> dict[int, tuple[int, int]]:
    return {decoded.bar.number: (decoded.start, decoded.stop) for decoded in config.decoded()}


def test_the_header_is_the_host_s_without_what_is_not_served() -> None:
    config = space()
    assert config.read(0, 4) == 0x11111234
    assert config.read(8, 4) == 0x03020003
    assert config.read(0x2C, 4) == 0x11001AF4
    assert config.read(4, 2) == 0, "decoding is off, and bus mastering"
    assert config.read(6, 2) == 0, "no capabilities"
    assert (config.read(0x30, 4), config.read(0x34, 1), config.read(0x3D, 1)) == (0, 0, 0), (
        "no ROM, list, interrupt pin"
    )
    assert (config.read(0x3E, 1), config.read(0x3F, 1)) == (2, 3)
    assert (config.read(0x0E, 1), space(many=True).read(0x0E, 1)) == (0, 0x80)


@pytest.mark.parametrize("register", range(CONFIG_BYTES))
def test_exactly_what_the_specification_lets_be_written(register: int) -> None:
    config = space()
    before = config.read(register, 1)
    config.write(register, 1, 0xFF)
    ones = config.read(register, 1)
    config.write(register, 1, 0)
    mask = WRITABLE.get(register, BAR_MASKS.get(register, 0))
    assert (ones, config.read(register, 1)) == (before & ~mask | mask, before & ~mask)


@pytest.mark.parametrize(
    ("bar", "answer"), [(0, 0xFFF00000), (1, 0xFFFFFF01), (2, 0xFF00000C), (3, 0xFFFFFFFF), (4, 0xFFFFFF00), (5, 0)]
)
def test_sizing(bar: int, answer: int) -> None:
    config = space()
    config.write(0x10 + 4 * bar, 4, 0xFFFFFFFF)
    assert config.read(0x10 + 4 * bar, 4) == answer


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_bar_can_be_written_in_pieces(width: int) -> None:
    config = space()
    value = 0xE1234567 & 0xFFF00000
    for i in range(0, 4, width):
        config.write(0x10 + i, width, value >> 8 * i)
    config.write(4, 2, 2)
    assert live(config) == {0: (value, value + (1 << 20))}


def test_decoding_follows_the_command_register() -> None:
    config = space()
    config.write(0x10, 4, 0xF0000000)
    config.write(0x14, 4, 0xC100)
    config.write(0x18, 4, 0)
    config.write(0x1C, 4, 8)
    assert live(config) == {}
    config.write(4, 2, 1)
    assert live(config) == {1: (0xC100, 0xC200)}
    config.write(4, 2, 3)
    assert live(config) == {0: (0xF0000000, 0xF0100000), 1: (0xC100, 0xC200), 2: (8 << 32, (8 << 32) + (1 << 24))}
    config.write(4, 2, 0x406)
    assert live(config).keys() == {0, 2}
    assert config.read(4, 2) == 0x406, "bus mastering reads as written"


@pytest.mark.parametrize(
    ("bar", "low", "high"),
    [
        (0, 0, 0), (0, 0xFFFFFFFF, 0), (1, 0xFFFFFFFF, 0), (1, 0x10000, 0), (1, 0xFFFFFF00, 0), (4, 0xFFFFFFFF, 0),
        (2, 0xFFFFFFFF, 0), (2, 0xFFFFFFFF, 0xFFFFFFFF), (2, 0xE0000000, 0xFFFFFFFF), (2, 0, 1 << 20),
    ],
)  # fmt: skip
def test_nothing_is_decoded_at_nowhere_while_sizing_or_beyond_the_end(bar: int, low: int, high: int) -> None:
    config = space()
    config.write(4, 2, 3)
    config.write(0x10 + 4 * bar, 4, low)
    if bar == 2:
        config.write(0x1C, 4, high)
    assert live(config) == {}


def test_the_last_places_are_places() -> None:
    config = space()
    config.write(4, 2, 3)
    config.write(0x10, 4, 0xFFE00000)
    config.write(0x14, 4, 0xFF00)
    config.write(0x1C, 4, (1 << 20) - 1)
    config.write(0x18, 4, 0xFE000000)
    assert live(config) == {0: (0xFFE00000, 0xFFF00000), 1: (0xFF00, 0x10000), 2: (0xFFFFFFE000000, 0xFFFFFFF000000)}


def test_accesses_at_and_across_the_end() -> None:
    config = space()
    assert config.read(0xFE, 4) == 0xFFFF0000
    assert config.read(0xFF, 2) == 0xFF00
    assert not config.write(0xFE, 4, 0xFFFFFFFF)


def test_only_what_moves_bars_says_so() -> None:
    config = space()
    assert [register for register in range(0, CONFIG_BYTES, 4) if config.write(register, 4, 0)] == [
        4,
        *range(0x10, 0x28, 4),
    ]
    assert config.write(3, 2, 0)
    assert not config.write(0x28, 1, 0)
    assert config.write(0x27, 1, 0)


def test_a_successor_goes_on_with_what_the_guest_wrote() -> None:
    store = bytearray(CONFIG_BYTES)
    first = space(store)
    first.write(0x10, 4, 0xF0000000)
    first.write(4, 2, 2)
    first.write(0x3C, 1, 11)
    store[0x40] = store[0] = 0x77  # not registers that a guest can have written
    second = space(store)
    assert live(second) == {0: (0xF0000000, 0xF0100000)}
    assert (second.read(0x3C, 1), second.read(0x40, 1), second.read(0, 2)) == (11, 0, 0x1234)


def test_garbage_yields_only_ranges_that_a_bar_can_have() -> None:
    dice = random.Random(20260)
    config = space()
    for _ in range(5000):
        config.write(dice.randrange(CONFIG_BYTES), dice.choice((1, 2, 4)), dice.getrandbits(32))
        for number, (start, stop) in live(config).items():
            bar = next(bar for bar in BARS if bar.number == number)
            assert (stop - start, start % bar.size, start > 0) == (bar.size, 0, True)
            assert stop <= (1 << 16 if bar.kind == IO else 1 << 32 if bar.kind == MEMORY32 else 1 << 52)


def test_bars_are_read_from_sysfs() -> None:
    device = PciDevice(
        Bdf(0, 3, 0, 0), 0x1234, 0x1111, 0x030000,
        resources=(
            Resource(0, 0xFEA00000, 0xFEB00000, 0x40200), Resource(1, 0xC000, 0xC100, 0x40101),
            Resource(2, 0x3800000000, 0x3801000000, 0x14220C), Resource(4, 0xFEB10100, 0xFEB10200, 0x40200),
            Resource(6, 0xFE000000, 0xFE010000, 0x46200), Resource(3, 0, 1, 0x400),
        ),
    )  # fmt: skip
    assert bars_of(device) == BARS


@pytest.mark.parametrize("bar", BARS)
def test_a_bar_survives_the_record(bar: Bar) -> None:
    assert Bar.parse(bar.number, str(bar)) == bar


@pytest.mark.parametrize(
    "text",
    ["", "memory32", "memory32 1000", "memory32 2000-1000", "io c000-c0ff ", "rom 0-ffff", "memory32 0x1000-1fff"],
)
def test_malformed_bars(text: str) -> None:
    with pytest.raises(ValueError):
        Bar.parse(0, text)


def test_bars_that_cannot_be_served() -> None:
    where = Bdf(0, 3, 0, 0)
    assert unfit(where, BARS) is None
    for bar, what in (
        (
            Bar(0, MEMORY32, 0x1000, 0x4000),
            "BAR 0 of 0000:03:00.0 has 0x3000 bytes, which is not a size that a BAR can have",
        ),
        (
            Bar(1, MEMORY32, 0x1000, 0x1008),
            "BAR 1 of 0000:03:00.0 has 0x8 bytes, which is not a size that a BAR can have",
        ),
        (Bar(2, MEMORY32, 0, 0x1000), "BAR 2 of 0000:03:00.0 has no address on the host"),
    ):
        found = unfit(where, (bar,))
        assert found is not None
        assert found.what == what
