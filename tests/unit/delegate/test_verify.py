# SPDX-License-Identifier: LGPL-2.1-only
"""The record against Xen, the host and the guest: everything that can be wrong, one at a time."""

import json
from pathlib import Path

import jsonschema
import pytest

from xlplug.delegate.config_space import CONFIG_BYTES, ConfigSpace
from xlplug.delegate.record import DelegateProcess, Record, RecordedDevice
from xlplug.delegate.verify import Kept, Seen, report_json, report_text, verify
from xlplug.model.addr import Domid
from xlplug.model.bar import IO, MEMORY32, MEMORY64, Bar
from xlplug.model.bdf import Bdf
from xlplug.model.host import PciDevice, Resource
from xlplug.model.hypervisor import HeldRights, IoreqServerInfo
from xlplug.model.rangeset import Range, RangeSet

DELEGATED, PASSED = Bdf(0, 3, 0, 0), Bdf(0, 4, 0, 0)
GUEST = Bdf(0, 0, 0x1D, 0)
BARS = (
    Bar(0, MEMORY32, 0xFE000000, 0xFE100000),
    Bar(1, IO, 0xC000, 0xC040),
    Bar(2, MEMORY64, 1 << 36, (1 << 36) + 4096),
)
SMALL = (Bar(0, MEMORY32, 0xFEB10100, 0xFEB10200), Bar(1, IO, 0xD000, 0xD020))
AT, PORTS = Range(0xF0000000, 0xF0100000), Range(0xC100, 0xC140)
RECORD = Record(
    Domid(7), "u", Domid(8), (RecordedDevice(PASSED, SMALL),), (RecordedDevice(DELEGATED, BARS, GUEST),),
    DelegateProcess(1, 1234, 99, "/run/xlplug/dm-7.state"),
)  # fmt: skip
RIGHTS = HeldRights(RangeSet([(0xD000, 0xD020)]), RangeSet([(0xFEB10, 0xFEB11)]))
SERVERS = (
    IoreqServerInfo(0, RangeSet([(0, 4)]), RangeSet([(0xA0000, 0xC0000)]), RangeSet([(0, 0x20)])),
    IoreqServerInfo(1, RangeSet([(GUEST.sbdf, GUEST.sbdf + 1)]), RangeSet([AT]), RangeSet([PORTS])),
)


def device(bdf: Bdf, bars: tuple[Bar, ...], driver: str = "pciback") -> PciDevice:
    flags = {MEMORY32: 0x200, MEMORY64: 0x100200, IO: 0x100}
    return PciDevice(
        bdf, 1, 2, 0, tuple(Resource(b.number, b.start, b.stop, flags[b.kind]) for b in bars), driver=driver
    )


def kept(**registers: int) -> Kept:
    """BARs 0 and 1 live."""
    store = bytearray(CONFIG_BYTES)
    config = ConfigSpace(bytes(64), BARS, store)
    for register, value in ({"r10": AT.start, "r14": PORTS.start, "r4": 3} | registers).items():
        config.write(int(register[1:], 16), 4, value)
    return Kept(bytes(store), {0: AT, 1: PORTS})


SEEN = Seen(
    SERVERS,
    {7: RIGHTS, 8: RIGHTS},
    {d.bdf: d for d in (device(DELEGATED, BARS), device(PASSED, SMALL))},
    (kept(),),
    55,
    True,
)


def test_everything_agrees() -> None:
    report = verify(RECORD, SEEN)
    assert report.problems == ()
    assert (
        report_text(report)
        == """\
domain 7: device model in domain 8
delegate: process 55, supervisor 1234, ioreq server 1
host 0000:04:00.0: mapped by the device model
  BAR 0  memory32 feb10100-feb101ff  granted
  BAR 1  io d000-d01f  granted
host 0000:03:00.0, in the guest 0000:00:1d.0: served by the delegate
  BAR 0  memory32 fe000000-fe0fffff  live at f0000000-f00fffff
  BAR 1  io c000-c03f  live at c100-c13f
  BAR 2  memory64 1000000000-1000000fff  off
everything agrees
"""
    )


def with_server(**changes: RangeSet) -> tuple[IoreqServerInfo, ...]:
    return (SERVERS[0], SERVERS[1]._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"host": {DELEGATED: SEEN.host[DELEGATED]}}, ["0000:04:00.0 is gone from the host"]),
        ({"host": SEEN.host | {PASSED: device(PASSED, SMALL[:1])}}, ["the BARs of 0000:04:00.0 have moved on the host"]),
        ({"host": SEEN.host | {DELEGATED: device(DELEGATED, BARS, "e1000")}}, ["0000:03:00.0 is not bound to pciback any more"]),
        ({"host": SEEN.host | {DELEGATED: device(DELEGATED, BARS)._replace(owner=Domid(9))}},
         ["0000:03:00.0 is delegated, and assigned to domain 9, whose device model maps it as well"]),
        ({"held": {7: RIGHTS}}, ["domain 8 does not hold BAR 0 of 0000:04:00.0, memory feb10100-feb101ff",
                                 "domain 8 does not hold BAR 1 of 0000:04:00.0, ports d000-d01f"]),
        ({"serving": 0}, ["no process serves the delegated devices"]),
        ({"supervised": False}, ["process 55 serves without its supervisor, process 1234"]),
        ({"servers": SERVERS[:1]}, ["ioreq server 1 is gone", "BAR 0 of 0000:03:00.0 is programmed, and Xen sends f0000000",
                                    "BAR 1 of 0000:03:00.0 is programmed, and Xen sends c100"]),
        ({"servers": with_server(memory=RangeSet())}, ["BAR 0 of 0000:03:00.0 is programmed, and Xen sends"]),
        ({"servers": with_server(memory=RangeSet([(AT.start, AT.stop + 0x1000)]))},
         ["ioreq server 1 claims memory { f0100000-f0100fff } beyond the record"]),
        ({"servers": with_server(ports=RangeSet([PORTS, (0x60, 0x61)]))}, ["ioreq server 1 claims ports { 60 } beyond the record"]),
        ({"servers": with_server(pci=RangeSet([(0xE8, 0xEA)]))}, ["ioreq server 1 claims functions { e9 } beyond the record"]),
        ({"servers": (*SERVERS, SERVERS[1]._replace(id=2))}, ["ioreq server 2 also claims functions { e8 }",
         "ioreq server 2 answers for { f0000000-f00fffff } and ports { c100-c13f }"]),
        ({"servers": (SERVERS[0]._replace(pci=RangeSet([(0xE8, 0xE9)])), SERVERS[1])},
         ["ioreq server 0 also claims functions { e8 }"]),
        ({"kept": ()}, ["what the delegate keeps is not there; /run/xlplug/dm-7.state was removed"]),
        ({"kept": (kept(r10=0xE0000000),)}, ["ioreq server 1 claims memory { f0000000-f00fffff } beyond the record"]),
    ],
)  # fmt: skip
def test_each_thing_that_can_be_wrong(changes: dict, problems: list[str]) -> None:
    report = verify(RECORD, SEEN._replace(**changes))
    assert len(report.problems) == len(problems), report.problems
    for problem, start in zip(report.problems, problems, strict=True):
        assert str(problem).startswith(start)
        assert problem.advice
    assert report_text(report).endswith(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}\n")


def test_a_bar_below_another_of_the_same_delegate_is_hidden_and_no_problem() -> None:
    both = RECORD._replace(
        delegate=(*RECORD.delegate, RecordedDevice(PASSED, BARS, Bdf(0, 0, 0x1C, 0))), device_model=()
    )
    seen = SEEN._replace(
        servers=with_server(pci=RangeSet([(0xE0, 0xE1), (0xE8, 0xE9)])),
        host=SEEN.host | {PASSED: device(PASSED, BARS)},
        kept=(kept(), kept()._replace(asked={})),
    )
    report = verify(both, seen)
    assert report.problems == ()
    assert [bar.state for bar in report.devices[1].bars] == ["hidden", "hidden", "off"]


def test_the_json_is_what_the_schema_says() -> None:
    schema = json.loads((Path(__file__).parents[3] / "docs" / "verify.schema.json").read_text())
    for seen in (SEEN, SEEN._replace(servers=(), kept=())):
        jsonschema.validate(report_json(verify(RECORD, seen)), schema)
    jsonschema.validate(report_json(verify(RECORD._replace(process=None, delegate=()), SEEN)), schema)
    first = report_json(verify(RECORD, SEEN))["devices"][1]["bars"][0]
    assert first["guest"] == {"first": AT.start, "count": AT.nr}
