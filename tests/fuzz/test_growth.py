# SPDX-License-Identifier: LGPL-2.1-only
"""What is parsed takes time that grows with its length, and not with the square: long inputs, so beside the faults."""

import os
import time

import pytest

from tests.fuzz.growth import GrowthError, compare
from tests.fuzz.targets import TARGETS
from xlplug.hook import relay


@pytest.mark.parametrize(
    ("name", "before", "middle", "after"),
    [
        ("language", b"a=0", b"a", b" -\n"),
        ("pci-spec", b"00:02.0,", b"seize=1,", b""),
        ("pci-spec", b"00:02.0,", b"seize=,", b""),
        ("pci-spec", b"00:02.0,bdf=", b"0", b""),
        ("config", b'type="hvm"\n', b"a=1\n", b""),
        ("config", b'type="hvm"\nioports=[', b'"2f8",', b"]\n"),
        ("config", b'type="hvm"\npci=[', b'"00:02.0",', b"]\n"),
        ("config", b'type="hvm"\ndevice_model_args=[', b'"-device","rtl8139",', b"]\nxlplug_preload=1\n"),
        ("libxl-json", b'"c_info":{"type":"hvm"},"b_info":{"irqs":[', b"5,", b"5]}}"),
        ("libvirt-xml", b"<domain>", b"<a>", b""),
        ("q-dump", b"", b"(XEN) Rangesets belonging to domain 1:\n", b""),
        ("q-dump", b"(XEN) ", b"'q' pressed -> dumpi", b""),
        ("ranges", b"{ ", b"3b0-3bb, ", b"1 }"),
        ("xenstore", b"", b"/libxl/7/xlplug/steps/0=x\n", b""),
        ("elf", b"\x7fELF", b"\0", b""),
    ],
)
def test_no_more_than_linear(name: str, before: bytes, middle: bytes, after: bytes) -> None:
    compare(TARGETS[name], before, middle, after)


def test_the_head_of_a_migration_that_comes_in_pieces() -> None:
    """As much as its sender says, up to 64 MiB, through a pipe that holds 64 KiB."""

    def seconds(size: int) -> float:
        (source, sender), (reader, to) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            with open(sender, "wb") as file:
                file.write(bytes(size))
            os._exit(0)
        begun = time.process_time()
        assert len(relay._read(source, to, size)) == size
        took = time.process_time() - begun
        os.waitpid(pid, 0)
        for fd in (source, sender, reader, to):
            os.close(fd)
        return took

    assert seconds(32 << 20) < 16 * max(seconds(4 << 20), 0.01)


def test_growth_is_seen() -> None:
    def slow(data: bytes) -> None:
        while data:
            data = data[1:]

    with pytest.raises(GrowthError):
        compare(slow, b"", b"abcd", b"")
