# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug show``: what was granted, against what Xen reports."""

from collections.abc import Sequence
from typing import Any

from xlplug.commands.common import find_domain, parse_domain, print_json, print_lines, say
from xlplug.commands.text import table
from xlplug.dom0 import nodes
from xlplug.execute.compare import Comparison
from xlplug.model.errors import EXIT_DONE
from xlplug.model.rangeset import RangeSet

SHOW_SCHEMA = "xlplug/show/1"


def show(text: str | None, form: str) -> int:
    """Ours, Xen's, and the difference, for one domain or for each that we granted anything."""
    from xlplug.execute.compare import compare
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    domain = None if text is None else parse_domain(text)
    with XenCtrl() as xen, XenStore() as store:
        if domain is not None:
            targets = [find_domain(domain, xen, store).domid]
        else:
            numbers = [nodes.domid_in(name) for name in store.list(nodes.LIBXL)]
            present = sorted(number for number in numbers if number is not None)
            targets = [number for number in present if store.read(f"{nodes.journal(number)}/state")]
        held = xen.held() if targets else {}
        found = [(target, compare(target, held, store)) for target in targets]
    if form == "json":
        print_json(show_json(found))
        return EXIT_DONE
    for _, rows in found:
        print_lines(comparison_lines(rows))
    if not found:
        say("xlplug has granted nothing on this host")
    return EXIT_DONE


def comparison_lines(rows: Sequence[Comparison]) -> list[str]:
    """Ours, Xen's, and the difference, for a target and its stubdomain."""
    lines = []
    for domid in dict.fromkeys(row.domid for row in rows):
        mine = [row for row in rows if row.domid == domid]
        state = mine[0].state or "nothing granted by xlplug"
        lines.append(f"domain {domid} ({mine[0].grantee}): {state}")
        cells = []
        for row in mine:
            if row.kind == "physmap":
                cells.append((row.kind, "populated by xlplug", str(row.ours)))
                continue
            cells += [(row.kind, "granted by xlplug", str(row.ours)), ("", "held, says Xen", str(row.held))]
            if row.missing:
                cells.append(("", "MISSING", f"{row.missing}  run 'xlplug grant' again"))
            if row.others:
                cells.append(("", "held, not by xlplug", str(row.others)))
        lines += table(cells)
    return lines


def show_json(found: Sequence[tuple[int, Sequence[Comparison]]]) -> dict[str, Any]:
    """The same as docs/show.schema.json describes it."""
    return {
        "schema": SHOW_SCHEMA,
        "domains": [
            {"target": target, "state": rows[0].state if rows else "", "rights": [_row(row) for row in rows]}
            for target, rows in found
        ],
    }


def _row(row: Comparison) -> dict[str, Any]:
    return {
        "domid": row.domid,
        "grantee": row.grantee,
        "kind": row.kind,
        "granted": _ranges(row.ours),
        "held": None if row.kind == "physmap" else _ranges(row.held),
        "missing": _ranges(row.missing),
        "others": _ranges(row.others),
    }


def _ranges(ranges: RangeSet) -> list[dict[str, int]]:
    return [{"first": span.start, "count": span.nr} for span in ranges]
