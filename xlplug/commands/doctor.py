# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug doctor``: looks, judges, and tells, as text or as JSON (docs/doctor.schema.json)."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from xlplug.doctor.checks import FAILURE, OK, STATUSES, WARNING, Finding, examine, worst
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED

__all__ = ["DOCTOR_SCHEMA", "DoctorOptions", "as_json", "as_text", "doctor", "exit_code"]

DOCTOR_SCHEMA = "xlplug/doctor/1"


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
        import json

        sys.stdout.write(json.dumps(as_json(findings), indent=1) + "\n")
    else:
        sys.stdout.write(as_text(findings))
    return exit_code(findings, strict=options.strict)


def exit_code(findings: Sequence[Finding], *, strict: bool = False) -> int:
    """The exit status that the worst finding calls for."""
    status = worst(findings)
    return EXIT_REFUSED if status == FAILURE or (strict and status == WARNING) else EXIT_DONE


def as_text(findings: Sequence[Finding]) -> str:
    """One line for each finding, then how many of each there are."""
    width = max((len(_line(finding.name)) for finding in findings), default=0)
    lines = []
    for status, name, text, advice in findings:
        said = f"{text}; {advice}" if advice else text
        lines.append(f"{status.ljust(7)}  {_line(name).ljust(width)}  {_line(said)}".rstrip())
    counts = {status: sum(finding.status == status for finding in findings) for status in STATUSES}
    lines.append(f"{counts[OK]} ok, {_many(counts[WARNING], WARNING)}, {_many(counts[FAILURE], FAILURE)}")
    return "".join(f"{line}\n" for line in lines)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _line(text: str) -> str:
    """As one line that any terminal can show: paths and firmware may hold anything."""
    shown = (char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text)
    return "".join(shown)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as docs/doctor.schema.json describes them."""
    return {"schema": DOCTOR_SCHEMA, "status": worst(findings), "findings": [f._asdict() for f in findings]}
