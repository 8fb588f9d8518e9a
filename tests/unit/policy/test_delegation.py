# SPDX-License-Identifier: LGPL-2.1-only
"""Which functions may be delegated, and how a plan shows them."""

import json
from pathlib import Path

import jsonschema
import pytest

from xlplug.commands.plan import plan_json, plan_lines
from xlplug.delegation import delegation
from xlplug.dom0.find_config import parse
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot, PciDevice, Resource
from xlplug.model.occasion import AHEAD, CREATING
from xlplug.plan import build

SCHEMA = Path(__file__).parents[3] / "docs" / "plan.schema.json"
CARD = PciDevice(
    Bdf(0, 3, 0, 0), 0x1234, 0x11E8, 0x00FF00, driver="pciback", config=bytes(64),
    resources=(Resource(0, 0xFEA00000, 0xFEB00000, 0x40200), Resource(1, 0xC000, 0xC100, 0x40101)),
)  # fmt: skip
PLAIN = CARD._replace(bdf=Bdf(0, 4, 0, 0), resources=())
CONFIG = 'name="g"\ntype="hvm"\nxlplug_delegate=["03:00.0,vslot=1d", "04:00.0"]\n'


def plan(devices: tuple[PciDevice, ...] = (CARD, PLAIN), occasion=CREATING):
    return build(parse(CONFIG.encode(), "g.cfg"), HostSnapshot("host", devices), occasion=occasion)


def test_a_plan_says_who_serves_what() -> None:
    text = "\n".join(plan_lines(plan()))
    assert (
        "Served by a delegate, a process in dom0 (the guest decides where its BARs are)\n"
        "  0000:03:00.0  in slot 1d.0    BAR 0    memory32 fea00000-feafffff\n"
        "  0000:03:00.0  in slot 1d.0    BAR 1    io c000-c0ff\n"
        "  0000:04:00.0  in a free slot  no BARs\n"
    ) in text
    assert "a delegated device has no interrupts and no DMA; see docs/delegation.md" in text
    assert "Assigned devices" not in text
    made = json.loads(json.dumps(plan_json(plan())))
    jsonschema.validate(made, json.loads(SCHEMA.read_text()))
    assert [(each["host"], each["slot"], len(each["bars"])) for each in made["served"]] == [
        ("0000:03:00.0", 0x1D, 2), ("0000:04:00.0", None, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("occasion", [AHEAD, CREATING])
def test_what_is_not_bound_to_pciback_yet(occasion) -> None:
    made = plan((CARD._replace(driver="e1000"), PLAIN), occasion)
    (problem,) = made.refusals or made.warnings
    assert bool(made.refusals) == occasion.granting
    assert str(problem) == (
        "0000:03:00.0 is bound to the driver e1000, not to pciback; run: xl pci-assignable-add 0000:03:00.0 [XLP304]"
    )


def test_a_display_that_dom0_uses_is_not_to_be_unbound_by_hand() -> None:
    display = CARD._replace(class_code=0x030000, driver="i915")
    (problem,) = plan((display, PLAIN)).refusals
    assert "hide it at boot" in problem.advice


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (None, "0000:03:00.0 was not found on this host; see 'lspci -D'"),
        (CARD._replace(owner=9), "assigned to domain 9, whose device model maps it; take it back (xl pci-detach 9 "),
        (CARD._replace(config=b""), "the config space of 0000:03:00.0 cannot be read"),
        (CARD._replace(config=bytes(14) + b"\x01" + bytes(49)), "0000:03:00.0 is a bridge"),
        (CARD._replace(config=b"\xff" * 256), "0000:03:00.0: it does not answer"),
        (CARD._replace(resources=(Resource(0, 0, 0x1000, 0x200),)), "BAR 0 of 0000:03:00.0 has no address on the host"),
    ],
)
def test_what_is_never_delegated(device: PciDevice | None, words: str) -> None:
    made = plan((PLAIN,) if device is None else (device, PLAIN), AHEAD)
    (problem,) = made.refusals
    assert words in str(problem)


def test_nothing_is_said_where_nothing_is_delegated() -> None:
    assert delegation((), (CARD,), "", granting=True) == ((), (), (), ())
