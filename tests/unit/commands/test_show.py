# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug show --format json`` of a granted domain in memory."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema

from xlplug.commands.show import SHOW_SCHEMA, comparison_json
from xlplug.config.domain import DomainConfig
from xlplug.execute import grants
from xlplug.execute.compare import compare
from xlplug.model.addr import Domid
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.occasion import BY_HAND, Who
from xlplug.plan import build
from xlplug.xen.in_memory import MemStore, MemXen

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "show.schema.json").read_text())


def test_json(host: Callable[[str], HostSnapshot], config: Callable[[str], DomainConfig]) -> None:
    xen, store = MemXen((4, 17)), MemStore()
    xen.add_domain(DomainInfo(7, nr_pages=1000, max_pages=1256))
    nothing = comparison_json(compare(7, xen, store))
    assert nothing["state"] is None
    made = build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), host("igd-laptop"), Who(Domid(7)), BY_HAND)
    grants.grant(made, xen, store, lambda line: None)
    xen.ioport_permission(7, 0x3B0, 0xC, allow=False)
    value = comparison_json(compare(7, xen, store))
    jsonschema.validate({"schema": SHOW_SCHEMA, "domains": [nothing, value]}, SCHEMA)
    ports = next(row for row in value["rows"] if row["kind"] == "ioport")  # type: ignore[attr-defined]
    assert ports["granted"] == [{"first": 0x3B0, "count": 0xC}, {"first": 0x3C0, "count": 0x20}]
    assert ports["held"] == [{"first": 0x3C0, "count": 0x20}]
    assert ports["missing"] == [{"first": 0x3B0, "count": 0xC}]
