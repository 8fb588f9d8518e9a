# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug show``: what was granted, against what Xen reports."""

import sys
from collections.abc import Sequence

from xlplug.commands.common import parse_domid, say
from xlplug.commands.text import table
from xlplug.dom0 import nodes
from xlplug.execute.compare import Comparison
from xlplug.model.errors import EXIT_DONE, Refused
from xlplug.model.problem import Problem
from xlplug.model.rangeset import RangeSet


SHOW_SCHEMA = "xlplug/show/1"


def show(text: str | None, form: str = "text") -> int:
    """Ours, Xen's, and the difference, for one domain or for each that we granted anything."""
    from xlplug.execute.compare import compare
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    with XenCtrl() as xen, XenStore() as store:
        if text is not None:
            domid = parse_domid(text, "domid")
            if domid is None or xen.domain_info(domid) is None:
                raise Refused(Problem(f"domain {text} does not exist", "see 'xl list'"))
            targets = [int(domid)]
        else:
            names = [name for name in store.list(nodes.LIBXL) if name.isdecimal()]
            targets = sorted(int(name) for name in names if store.read(f"{nodes.journal(name)}/state"))
        if form == "json":
            import json

            domains = [comparison_json(compare(target, xen, store)) for target in targets]
            sys.stdout.write(json.dumps({"schema": SHOW_SCHEMA, "domains": domains}, indent=1) + "\n")
            return EXIT_DONE
        for target in targets:
            sys.stdout.write(comparison_text(compare(target, xen, store)))
        if not targets:
            say("xlplug has granted nothing on this host")
    return EXIT_DONE


def comparison_json(rows: Sequence[Comparison]) -> dict[str, object]:
    """One domain of docs/show.schema.json; its rows are also its stubdomain's."""

    def ranges(some: RangeSet) -> list[dict[str, int]]:
        return [{"first": r.start, "count": r.nr} for r in some]

    return {
        "domid": rows[0].domid,
        "state": rows[0].state or None,
        "rows": [
            {
                "domid": row.domid,
                "grantee": row.grantee,
                "kind": row.kind,
                "granted": ranges(row.ours),
                "held": ranges(row.held),
                "missing": ranges(row.missing),
            }
            for row in rows
        ],
    }


def comparison_text(rows: Sequence[Comparison]) -> str:
    """`xlplug show`: ours, Xen's, and the difference."""
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
    return "\n".join(lines) + "\n"
