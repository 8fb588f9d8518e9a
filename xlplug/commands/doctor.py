# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug doctor``: prints what must be true of this dom0, and whether it is, as text or JSON (docs/doctor.schema.json)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from xlplug.commands.common import print_json, print_lines
from xlplug.doctor.checks import examine
from xlplug.doctor.finding import FAILURE, INFO, OK, WARNING, Finding, worst
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, printable

__all__ = ["DOCTOR_SCHEMA", "DoctorOptions", "as_json", "as_text", "doctor", "exit_code"]

DOCTOR_SCHEMA = "xlplug/doctor/2"


class DoctorOptions(NamedTuple):
    """``xlplug doctor``'s options."""

    configs: tuple[str, ...] = ()
    format: str = "text"
    strict: bool = False


def doctor(options: DoctorOptions) -> int:
    """Print what must be true here, line by line; 1 when something is not."""
    from xlplug.doctor.survey import survey

    findings = examine(survey(options.configs))
    if options.format == "json":
        print_json(as_json(findings))
    else:
        print_lines(as_text(findings).splitlines())
    return exit_code(findings, strict=options.strict)


def exit_code(findings: Sequence[Finding], *, strict: bool = False) -> int:
    """The exit status that the worst finding calls for."""
    status = worst(findings)
    return EXIT_REFUSED if status == FAILURE or (strict and status == WARNING) else EXIT_DONE


def as_text(findings: Sequence[Finding]) -> str:
    """One line for each finding, then how many of each there are."""
    width = max((len(printable(finding.name)) for finding in findings), default=0)
    lines = []
    for finding in findings:
        text = str(finding.problem)
        if finding.skipped:
            text += f" ({_many(len(finding.skipped), 'check')} skipped)"
        row = (finding.status.ljust(7), printable(finding.name).ljust(width), printable(text))
        lines.append("  ".join(row).rstrip())
    counts = Counter(finding.status for finding in findings)
    skipped = sum(len(finding.skipped) for finding in findings)
    totals = [
        f"{counts[OK]} ok",
        f"{counts[INFO]} info",
        _many(counts[WARNING], WARNING),
        _many(counts[FAILURE], FAILURE),
    ]
    totals += [f"{skipped} skipped"] if skipped else []
    return "".join(f"{line}\n" for line in (*lines, ", ".join(totals)))


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as docs/doctor.schema.json describes them."""
    rows = [{**finding._asdict(), "skipped": list(finding.skipped)} for finding in findings]
    return {"schema": DOCTOR_SCHEMA, "status": worst(findings), "findings": rows}
