# SPDX-License-Identifier: LGPL-2.1-only
"""Qubes OS's sys-gui-gpu, recorded: what its libxl patch 1017 grants, no more than that, and taken back again."""

import json
from pathlib import Path

import jsonschema
import pytest

from tests.unit.fakes import xenstore
from xlplug.config.from_libxl import from_libxl
from xlplug.dom0.recording import load_domain
from xlplug.execute import grants
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.occasion import STARTING, Who
from xlplug.plan import build
from xlplug.xen.in_memory import MemXen

RECORDED = Path(__file__).parents[2] / "recorded" / "domains" / "qubes-sys-gui-gpu"


def test_sys_gui_gpu_gets_what_patch_1017_grants() -> None:
    recorded = load_domain(str(RECORDED))
    schema = json.loads((Path(__file__).parents[3] / "docs" / "host.schema.json").read_text())
    jsonschema.validate(json.loads((RECORDED / "host.json").read_text()), schema)
    assert recorded.stubdom is not None
    assert recorded.libxl_json is not None
    config = from_libxl(json.loads(recorded.libxl_json))
    who = Who(Domid(recorded.target.domid), Domid(recorded.stubdom.domid))
    plan = build(config, recorded.host, who, STARTING)
    assert (plan.refusals, plan.warnings, plan.notes) == ((), (), ())
    assert plan.legacy_owner == Bdf(0, 0, 2, 0)
    xen, store = MemXen((4, 19)), xenstore(12, 13)
    xen.add_domain(recorded.target)
    xen.add_domain(recorded.stubdom)
    grants.grant(plan, xen, store, lambda _: None)
    held = xen.held()
    assert {domid: (str(rights.memory), str(rights.ports)) for domid, rights in held.items() if domid} == {
        12: ("{ a0-bf, 7a3e9-7a3eb }", "{ 3b0-3bb, 3c0-3df }"),
        13: ("{ a0-cf, 7a3e9-7a3eb }", "{ 3b0-3bb, 3c0-3df }"),  # and the VBIOS
    }


@pytest.mark.parametrize("kind", ["igd", "default"])
def test_class_0380_is_nothing_to_warn_of(kind: str) -> None:
    """Its libxl, hvmloader and QEMU take it for a display, and nobody else's do."""
    host = load_domain(str(RECORDED)).host
    config = from_libxl(json.loads((RECORDED / "libxl.json").read_text()))._replace(gfx_passthru=kind)
    other = host._replace(
        devices=tuple(d._replace(class_code=0x038000) if d.bdf == Bdf(0, 0, 2, 0) else d for d in host.devices)
    )
    plan = build(config, other)
    assert (plan.refusals, plan.warnings, plan.notes) == ((), (), ())
    elsewhere = build(config, other._replace(distribution="debian"))
    assert len(elsewhere.warnings) == 1 + (kind == "default")
    assert len(elsewhere.notes) == 1


def test_the_display_is_hidden_at_boot_in_qubes_s_own_words() -> None:
    host = load_domain(str(RECORDED)).host
    config = from_libxl(json.loads((RECORDED / "libxl.json").read_text()))
    driven = tuple(d._replace(driver="i915") if d.bdf == Bdf(0, 0, 2, 0) else d for d in host.devices)
    advice = build(config, host._replace(devices=driven)).warnings[0].advice
    assert "rd.qubes.hide_pci=00:02.0" in advice
    assert "xen-pciback" not in advice


def test_the_document_has_a_row_for_each_patch() -> None:
    text = (Path(__file__).parents[3] / "docs" / "qubes.md").read_text()
    assert [
        number
        for number in ("1017", "0604", "0607", "0630", "0632", "0017", "0018", "0021")
        if f" {number} |" not in text
    ] == []
