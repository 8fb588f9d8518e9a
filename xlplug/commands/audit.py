# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug audit``: what would become of any number of recorded domains; as text, JSON or HTML, host by host as they come."""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, NamedTuple

from xlplug.audit.fleet import audit
from xlplug.audit.judge import REFUSED, UNREADABLE, Verdict
from xlplug.commands.common import print_lines
from xlplug.dom0 import streams
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED

FORMATS = ("text", "json", "html")
SCHEMA = "xlplug/audit/1"
_COUNTS = ("starts", "plain", "refused", "unreadable", "conflicts", "needs xlplug on 4.23", "breaks on 4.23")


class AuditOptions(NamedTuple):
    """``xlplug audit``'s options."""

    folders: tuple[str, ...]
    format: str = "text"


def audit_(options: AuditOptions) -> int:
    """Print every verdict and their sums; 1 when a domain is refused, cannot be read, conflicts, or breaks on Xen 4.23."""
    counts: Counter[str] = Counter()
    verdicts = _counted(audit(options.folders), counts)
    {"text": _text, "json": _json, "html": _html}[options.format](verdicts, counts)
    bad = counts[REFUSED] + counts[UNREADABLE] + counts["conflicts"] + counts["breaks on 4.23"]
    return EXIT_REFUSED if bad else EXIT_DONE


def _counted(verdicts: Iterator[Verdict], counts: "Counter[str]") -> Iterator[Verdict]:
    host = None
    progress = sys.stderr.isatty()
    for verdict in verdicts:
        counts["domains"] += 1
        counts["hosts"] += verdict.host != host
        host = verdict.host
        counts[verdict.status] += 1
        counts["conflicts"] += verdict.conflicts
        counts[f"{verdict.on_4_23} on 4.23"] += 1
        if progress and counts["domains"] % 500 == 0:
            sys.stderr.write(f"\r{counts['domains']} domains on {counts['hosts']} hosts")
        yield verdict
    if progress and counts["domains"] >= 500:
        sys.stderr.write("\r\x1b[K")


def _sums(counts: "Counter[str]") -> str:
    return ", ".join(f"{name}: {counts[name]}" for name in ("hosts", "domains", *_COUNTS))


def _text(verdicts: Iterator[Verdict], counts: "Counter[str]") -> None:
    host = None
    for verdict in verdicts:
        if verdict.host != host:
            print_lines([f"host {verdict.host}"])
            host = verdict.host
        later = "" if verdict.on_4_23 == "same" else f"  Xen 4.23: {verdict.on_4_23}"
        lines = [f"  {verdict.status:10}  {verdict.domain or '(no name)'}  {verdict.path}{later}"]
        print_lines([*lines, *(f"    {finding.kind}: {finding.problem}" for finding in verdict.findings)])
    streams.write(_sums(counts) + "\n")


def _json(verdicts: Iterator[Verdict], counts: "Counter[str]") -> None:
    """One document, written as it comes."""
    from json import dumps

    streams.write(f'{{"schema": "{SCHEMA}", "domains": [')
    for n, verdict in enumerate(verdicts):
        streams.write(f"{',' if n else ''}\n {dumps(_value(verdict))}")
    sums = {"hosts": counts["hosts"], "domains": counts["domains"], **{n.replace(" ", "_"): counts[n] for n in _COUNTS}}
    streams.write(f'\n], "sums": {dumps(sums)}}}\n')


def _value(verdict: Verdict) -> dict[str, object]:
    return {
        "host": verdict.host,
        "domain": verdict.domain,
        "path": verdict.path,
        "status": verdict.status,
        "on_4_23": verdict.on_4_23,
        "findings": [{"kind": f.kind, **f.problem._asdict()} for f in verdict.findings],
    }


def _html(verdicts: Iterator[Verdict], counts: "Counter[str]") -> None:
    """A page: the sums first, which are known last, so the rows wait in a file."""
    from xlplug.picture.audit_page import foot, head, row

    with tempfile.TemporaryFile("w+", encoding="utf-8") as rows:
        for verdict in verdicts:
            findings = [(f.kind, str(f.problem)) for f in verdict.findings]
            conflict = "conflict" if verdict.conflicts else verdict.status
            rows.write(row(verdict.host, verdict.domain, verdict.path, conflict, verdict.on_4_23, findings))
        streams.write(head([("hosts", counts["hosts"]), *((name, counts[name]) for name in ("domains", *_COUNTS))]))
        _copy(rows)
        streams.write(foot())


def _copy(rows: IO[str]) -> None:
    rows.flush()
    rows.seek(0, os.SEEK_SET)
    while block := rows.read(1 << 16):
        streams.write(block)
