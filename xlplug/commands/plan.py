# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug plan``: print what would be granted, as text or JSON (docs/plan.schema.json)."""

from typing import Any, NamedTuple

from xlplug.commands.common import parse_domid, print_json, print_lines, read_config
from xlplug.commands.text import table
from xlplug.delegation import Served
from xlplug.displays import PURPOSES
from xlplug.dom0.find_config import parse
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, UsageError
from xlplug.model.host import PciDevice
from xlplug.model.occasion import AHEAD, Who
from xlplug.model.rangeset import Range
from xlplug.model.steps import Step
from xlplug.plan import Plan, build, domid_refusals

__all__ = ["PLAN_SCHEMA", "PlanOptions", "plan", "plan_json", "plan_lines", "print_plan", "step_json"]

PLAN_SCHEMA = "xlplug/plan/2"


class PlanOptions(NamedTuple):
    """``xlplug plan``'s options."""

    config: str
    extra: tuple[str, ...] = ()
    host: str | None = None
    target: str | None = None
    stubdom: str | None = None
    map_legacy: bool = False
    format: str = "text"


def plan(options: PlanOptions) -> int:
    """Print the plan for a configuration; 1 when it is refused."""
    from xlplug.dom0.recording import load_host

    who = Who(parse_domid(options.target, "--target"), parse_domid(options.stubdom, "--stubdom"))
    for problem in domid_refusals(who):
        raise UsageError(problem.what, hint=problem.advice, code=problem.code)
    config = parse(read_config(options.config), options.config, options.extra)
    when = AHEAD
    if options.host is not None:
        host = load_host(options.host)
    else:
        from xlplug.commands.opening import readable_xen
        from xlplug.dom0 import snapshot
        from xlplug.hook import create

        when = AHEAD.without_ram(create.occasion(config, create.found_wrapper() or "").ram_left)
        with readable_xen() as (xen, store):
            host = snapshot.take(xen, store, config)
    return print_plan(build(config, host, who, when, map_legacy=options.map_legacy), options.format)


def print_plan(made: Plan, form: str) -> int:
    """Print it, as text or JSON; the exit status that it calls for."""
    if form == "json":
        print_json(plan_json(made))
    else:
        print_lines(plan_lines(made))
    return EXIT_REFUSED if made.refusals else EXIT_DONE


def plan_lines(plan: Plan) -> list[str]:
    """The whole plan: what is done and why, what is not and who does it."""
    who = f"domain {plan.domain or '(no name)'}"
    if plan.target is not None:
        who += f", domid {plan.target}"
    if plan.has_stubdom:
        who += ", stubdomain" if plan.stubdom is None else f", stubdomain domid {plan.stubdom}"
    lines = [f"Plan for {who}, on host {plan.host}"]
    for title, body in _sections(plan):
        if body:
            lines += ["", title, *body]
    if not plan.steps and not plan.refusals:
        lines += ["", "Nothing to grant: no legacy range is needed."]
    return lines


def _sections(plan: Plan) -> list[tuple[str, list[str]]]:
    devices = table(
        (
            str(a.device.bdf),
            f"{a.device.vendor:04x}:{a.device.device:04x}",
            f"class {a.device.class_code:06x}",
            f"driver {a.device.driver or 'none'}",
        )
        for a in plan.devices
    )
    steps = table(
        (
            str(step),
            f"{step.reason}{f', {step.device}' if step.device else ''}",
            "libxl grants it too: not undone" if step.shared else "",
        )
        for step in plan.steps
    )
    by_libxl = table((g.grantee, _range(g.kind, g.range), g.reason, str(g.device or "")) for g in plan.by_libxl)
    return [
        ("Assigned devices", devices),
        ("Steps (hexadecimal, both ends included; iomem counts frames of 4 KiB)", steps),
        (
            "What the rights are for",
            table(purpose for purpose in PURPOSES if any(purpose[0] in step.reason for step in plan.steps)),
        ),
        (
            "Left to the device model (the guest decides where its BARs are)",
            table((str(d.device), f"BAR {d.bar}", _range(d.kind, d.range)) for d in plan.delegated),
        ),
        (
            "Served by a delegate, a process in dom0 (the guest decides where its BARs are)",
            table(row for each in plan.served for row in _served(each)),
        ),
        ("Granted by libxl itself (never undone by xlplug)", by_libxl),
        ("Notes", [f"  {problem}" for problem in plan.notes]),
        ("Warnings", [f"  {problem}" for problem in plan.warnings]),
        ("REFUSED: nothing of this will be done", [f"  {problem}" for problem in plan.refusals]),
    ]


def _served(each: Served) -> list[tuple[str, ...]]:
    """A row for each BAR: the function, where the guest will see it, the BAR with its machine range."""
    spec = each.spec
    where = "in a free slot" if spec.slot is None else f"in slot {spec.slot:x}.{spec.function}"
    bars = [(f"BAR {bar.number}", str(bar)) for bar in each.bars] or [("no BARs", "")]
    return [(str(spec.host), where, *bar) for bar in bars]


def _range(kind: str, span: Range) -> str:
    return f"{kind} {span}"


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as docs/plan.schema.json describes it."""
    return {
        "schema": PLAN_SCHEMA,
        "host": plan.host,
        "domain": plan.domain,
        "target": plan.target,
        "stubdom": plan.stubdom,
        "has_stubdom": plan.has_stubdom,
        "devices": [_device_json(assigned.device) for assigned in plan.devices],
        "steps": [step_json(step) for step in plan.steps],
        "delegated": [
            {"device": str(d.device), "bar": d.bar, "kind": d.kind, "first": d.range.start, "count": d.range.nr}
            for d in plan.delegated
        ],
        "served": [_served_json(served) for served in plan.served],
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
        "notes": [problem._asdict() for problem in plan.notes],
        "warnings": [problem._asdict() for problem in plan.warnings],
        "refusals": [problem._asdict() for problem in plan.refusals],
    }


def _device_json(device: PciDevice) -> dict[str, Any]:
    return {
        "bdf": str(device.bdf),
        "vendor": device.vendor,
        "device": device.device,
        "class": device.class_code,
        "driver": device.driver,
        "owner": device.owner,
    }


def _served_json(served: Served) -> dict[str, Any]:
    return {
        "host": str(served.spec.host),
        "slot": served.spec.slot,
        "function": served.spec.function,
        "bars": [
            {
                "index": bar.number,
                "kind": bar.kind,
                "prefetch": bar.prefetch,
                "machine": {"first": bar.start, "count": bar.size},
            }
            for bar in served.bars
        ],
    }


def step_json(step: Step) -> dict[str, Any]:
    """One step, as in docs/plan.schema.json."""
    return {
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
