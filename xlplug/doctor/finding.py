# SPDX-License-Identifier: LGPL-2.1-only
"""A line of the report, and how lines that depend on one failure become one.  Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from xlplug.doctor.reading import Broken, Missing, Reading, Skipped
from xlplug.model.problem import Problem

__all__ = ["FAILURE", "INFO", "OK", "STATUSES", "WARNING", "Finding", "folded", "missing", "there", "worst"]

#: From best to worst.  `INFO` is for what is not there, or not yet, and need not be.
INFO, OK, WARNING, FAILURE = STATUSES = ("info", "ok", "warning", "failure")
_SKIPPED = "skipped"  # until it is folded


class Finding(NamedTuple):
    """One line: how it is, the name of what was looked at, what was found, and what to do ("" when there is nothing to do).

    ``code`` is that of the error behind it, "" where there was none.  ``skipped`` names what was not looked at because of this.
    """

    status: str
    name: str
    what: str
    advice: str = ""
    code: str = ""
    skipped: tuple[str, ...] = ()

    @property
    def problem(self) -> Problem:
        """What was found, and what to do."""
        return Problem(self.what, self.advice, self.code)


def missing(name: str, found: Missing, what: str = "") -> Finding:
    """The line in place of a value: a failure where something was tried and does not work, else a warning.

    ``what`` says which of several things on lines of one name it is, as a phrase.
    """
    if isinstance(found, Broken):
        return Finding(FAILURE, name, *found)
    if isinstance(found, Skipped):
        return Finding(_SKIPPED, f"{name}: {what}" if what else name, found.what)
    return Finding(WARNING, name, f"{f'{what} ' if what else ''}not checked: {found.what}", found.advice, found.code)


def there(name: str, reading: Reading[Any]) -> Finding:
    """The line of something that must be there; the reading is its own text."""
    return missing(name, reading) if isinstance(reading, Missing) else Finding(OK, name, reading)


def folded(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The lines, with those that were skipped put into the line that says why."""
    lines: list[Finding] = []
    skipped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.status == _SKIPPED:
            skipped.setdefault(finding.what, []).append(finding.name)
        else:
            lines.append(finding)
    for at, line in enumerate(lines):
        if line.status in (WARNING, FAILURE) and line.name in skipped:
            lines[at] = line._replace(skipped=tuple(skipped.pop(line.name)))
    for cause, names in skipped.items():
        lines += [Finding(WARNING, name, f"not checked: it needs '{cause}'") for name in names]
    return tuple(lines)


def worst(findings: Iterable[Finding]) -> str:
    """The worst status among them; `OK` when there are none."""
    return max((finding.status for finding in findings), key=STATUSES.index, default=OK)
