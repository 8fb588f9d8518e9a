# SPDX-License-Identifier: LGPL-2.1-only
"""A verdict on one domain of a recorded host, and on what two domains of a host cannot have at once.  No I/O."""

from collections.abc import Sequence
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.model.host import HostSnapshot
from xlplug.model.occasion import AHEAD, NOBODY, Who
from xlplug.model.problem import Problem
from xlplug.model.steps import IOPORT_PERMISSION
from xlplug.obstacles import Scene, touching_port_bars
from xlplug.plan import build
from xlplug.vga import VGA_PORT_SET

__all__ = ["PLAIN", "REFUSED", "STARTS", "UNREADABLE", "Finding", "Verdict", "judge", "together"]

STARTS = "starts"  #: xlplug grants what it needs
PLAIN = "plain"  #: it needs nothing of xlplug
REFUSED = "refused"  #: xlplug would not create it
UNREADABLE = "unreadable"  #: its configuration, or its host's recording, cannot be read

#: What Xen 4.23 means for it.
SAME, NEEDS_XLPLUG, BREAKS = "same", "needs xlplug", "breaks"


class Finding(NamedTuple):
    """Something to know about a domain: "refused", "conflict", "4.23" or "warning"."""

    kind: str
    problem: Problem


class Verdict(NamedTuple):
    """What would become of a domain.  ``devices`` are its assigned functions; ``vga``: it claims the VGA ranges."""

    host: str
    domain: str
    path: str
    status: str
    on_4_23: str = SAME
    findings: tuple[Finding, ...] = ()
    devices: tuple[str, ...] = ()
    vga: bool = False

    @property
    def conflicts(self) -> bool:
        """Whether it cannot run beside another domain of its host."""
        return any(finding.kind == "conflict" for finding in self.findings)


def judge(config: DomainConfig, host: HostSnapshot, path: str, who: Who = NOBODY) -> Verdict:
    """Judge a configuration by its plan.  Whose device it is now counts only for a domain that ran: ``who``."""
    if who == NOBODY:
        host = host._replace(devices=tuple(d if d.owner is None else d._replace(owner=None) for d in host.devices))
    plan = build(config, host, who, AHEAD)
    ports = [step for step in plan.steps if step.op == IOPORT_PERMISSION]
    vga = any(VGA_PORT_SET.overlaps(*step.range) for step in ports)
    findings = [Finding("refused", problem) for problem in plan.refusals]
    assigned = tuple(a.device for a in plan.devices)
    touching = tuple(touching_port_bars(Scene(config, host._replace(xen=None), assigned, plan.has_stubdom)))
    later = BREAKS if touching else NEEDS_XLPLUG if vga else SAME
    findings += [Finding("4.23", problem) for problem in touching]
    findings += [Finding("warning", problem) for problem in plan.warnings if problem not in touching]
    status = REFUSED if plan.refusals else STARTS if plan.steps else PLAIN
    devices = tuple(str(device.bdf) for device in assigned)
    return Verdict(host.name, config.name, path, status, later, tuple(findings), devices, vga)


def together(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on one host's domains, with what two of them both want; the same name is the same domain."""
    of_device: dict[str, list[Verdict]] = {}
    vga = [verdict for verdict in verdicts if verdict.vga]
    for verdict in verdicts:
        for device in verdict.devices:
            of_device.setdefault(device, []).append(verdict)
    found = []
    for verdict in verdicts:
        conflicts = []
        for device in verdict.devices:
            conflicts += _clash(verdict, of_device[device], device)
        if verdict.vga and not conflicts:
            conflicts += _clash(verdict, vga, "the VGA ranges")
        found.append(verdict._replace(findings=(*conflicts, *verdict.findings)) if conflicts else verdict)
    return found


def _clash(verdict: Verdict, wanting: Sequence[Verdict], what: str) -> list[Finding]:
    names = list(dict.fromkeys(other.domain for other in wanting if other.domain != verdict.domain))
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    problem = Problem(f"{what}: also for domain '{names[0]}'{more}", "run only one of them at a time", code="XLP510")
    return [Finding("conflict", problem)]
