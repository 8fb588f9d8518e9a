# SPDX-License-Identifier: LGPL-2.1-only
"""A plan as a person wants to read it, and as JSON (docs/plan.schema.json).  Pure: values in, text out."""

from collections.abc import Iterable, Sequence
from typing import Any

from xlplug.execute.grants import Comparison
from xlplug.model.rangeset import Range
from xlplug.plan import Plan

__all__ = ["PLAN_SCHEMA", "comparison_text", "plan_json", "plan_text", "table"]

PLAN_SCHEMA = "xlplug/plan/1"


def table(rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Left-aligned columns, two blanks apart."""
    cells = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    return [(indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))).rstrip() for row in cells]


def _range(kind: str, span: Range) -> str:
    return f"{kind} {'mfn' if kind == 'iomem' else 'port'}={span}"


def plan_text(plan: Plan) -> str:
    """The whole plan: what is done and why, what is not and who does it."""
    who = f"domain {plan.domain or '(no name)'}"
    if plan.target is not None:
        who += f", domid {plan.target}"
    if plan.has_stubdom:
        who += ", stubdomain" if plan.stubdom is None else f", stubdomain domid {plan.stubdom}"
    lines = [f"Plan for {who}, on host {plan.host}", ""]
    sections: list[tuple[str, list[str]]] = [
        (
            "Assigned devices",
            table(
                (
                    str(a.device.bdf),
                    f"{a.device.vendor:04x}:{a.device.device:04x}",
                    f"class {a.device.class_code:06x}",
                    f"driver {a.device.driver or 'none'}",
                )
                for a in plan.devices
            ),
        ),
        (
            "Steps",
            table(
                (
                    str(step),
                    f"{step.reason}{f', {step.device}' if step.device else ''}",
                    "libxl grants it too: not undone" if step.shared else "",
                )
                for step in plan.steps
            ),
        ),
        (
            "Left to the device model (the guest decides where its BARs are)",
            table((str(d.device), f"BAR {d.bar}", _range(d.kind, d.range)) for d in plan.delegated),
        ),
        (
            "Granted by libxl itself (never undone by xlplug)",
            table((g.grantee, _range(g.kind, g.range), g.reason, str(g.device or "")) for g in plan.by_libxl),
        ),
        ("Notes", [f"  {text}" for text in plan.notes]),
        ("Warnings", [f"  {text}" for text in plan.warnings]),
        ("REFUSED: nothing of this will be done", [f"  {text}" for text in plan.refusals]),
    ]
    for title, body in sections:
        if body:
            lines += [title, *body, ""]
    if not plan.steps and not plan.refusals:
        lines += ["Nothing to grant: no legacy range is needed.", ""]
    return "\n".join(lines)


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as docs/plan.schema.json describes it."""
    return {
        "schema": PLAN_SCHEMA,
        "host": plan.host,
        "domain": plan.domain,
        "target": plan.target,
        "stubdom": plan.stubdom,
        "has_stubdom": plan.has_stubdom,
        "devices": [
            {
                "bdf": str(a.device.bdf),
                "vendor": a.device.vendor,
                "device": a.device.device,
                "class": a.device.class_code,
                "driver": a.device.driver,
                "owner": a.device.owner,
            }
            for a in plan.devices
        ],
        "steps": [
            {
                "op": step.op,
                "grantee": step.grantee,
                "domid": step.domid,
                "first": step.first,
                "count": step.nr,
                **({} if step.first_guest is None else {"first_guest": step.first_guest}),
                "reason": step.reason,
                "device": None if step.device is None else str(step.device),
                "shared": step.shared,
                "kept": [{"first": r.start, "count": r.nr} for r in step.kept],
                "text": str(step),
            }
            for step in plan.steps
        ],
        "delegated": [
            {"device": str(d.device), "bar": d.bar, "kind": d.kind, "first": d.range.start, "count": d.range.nr}
            for d in plan.delegated
        ],
        "by_libxl": [
            {
                "kind": g.kind,
                "grantee": g.grantee,
                "first": g.range.start,
                "count": g.range.nr,
                "reason": g.reason,
                "device": None if g.device is None else str(g.device),
            }
            for g in plan.by_libxl
        ],
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
        "refusals": list(plan.refusals),
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
