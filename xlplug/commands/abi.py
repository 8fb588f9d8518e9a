# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug abi``: print which ABI-unstable functions a device model imports, as text or JSON."""

from typing import Any

from xlplug.abi.symbols import OWNERS, Report
from xlplug.commands.common import print_json, print_lines
from xlplug.commands.text import table
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, HostError, printable

ABI_SCHEMA = "xlplug/abi/2"


def abi_text(report: Report) -> str:
    """The report for a person: what it needs, who owns each function now, and whether it fits the running Xen."""
    lines = [report.program, ""]
    if report.libraries:
        lines.append("Xen libraries")
        lines += table(
            (
                library.soname,
                f"{library.nr_symbols} function{'s' * (library.nr_symbols != 1)}",
                f"ABI-unstable, of Xen {library.xen}" if library.xen else "stable",
                library.path or "NOT INSTALLED",
            )
            for library in report.libraries
        )
        lines.append("")
    for owner, meaning in OWNERS.items():
        rows = [(symbol.name, text) for symbol, whose, text in report.unstable if whose == owner]
        if rows:
            lines += [f"{meaning[0].upper()}{meaning[1:]} ({len(rows)})", *table(rows), ""]
    if not report.libraries and report.unstable:
        lines += ["It names no Xen library: the program that loads it must bring one.", ""]
    elif not report.libraries:
        lines += ["It uses no Xen library; not a device model.", ""]
    elif not any(library.xen for library in report.libraries):
        lines += ["It uses only stable Xen libraries: it runs on any Xen.", ""]
    elif not report.running:
        lines += ["This machine does not run on Xen, so there is no version to compare with.", ""]
    elif not report.problems:
        lines += [f"It was built for the running Xen, {report.running}.", ""]
    lines += [f"PROBLEM: {problem}" for problem in report.problems]
    return "\n".join(map(printable, lines)).rstrip("\n") + "\n"


def abi_json(report: Report) -> dict[str, Any]:
    """The report as docs/abi.schema.json describes it."""
    return {
        "schema": ABI_SCHEMA,
        "program": report.program,
        "running": report.running or None,
        "libraries": [
            {
                "soname": library.soname,
                "stable": not library.xen,
                "xen": library.xen or None,
                "functions": library.nr_symbols,
                "path": library.path,
            }
            for library in report.libraries
        ],
        "unstable": [
            {
                "function": symbol.name,
                "library": symbol.library or None,
                "version": symbol.version or None,
                "owner": owner,
                "text": text,
            }
            for symbol, owner, text in report.unstable
        ],
        "problems": [problem._asdict() for problem in report.problems],
    }


def abi(program: str | None, form: str) -> int:
    """Print what a device model, by default xl's own, imports from ABI-unstable libraries; 1 when it does not fit.

    Raises:
        HostError: it cannot be read; or no program was given, and xl's own is not known here.
    """
    from xlplug.abi.elf import look_into
    from xlplug.hook.device_model import real
    from xlplug.model.errors import XenUnavailableError
    from xlplug.xen.lib import running_version

    try:
        running = running_version()[2]
    except XenUnavailableError as error:
        if program is None:
            raise HostError(error.message, hint="give the path of a QEMU to look at", code=error.code) from error
        running = ""
    if program is None:
        program = real("")
    report = look_into(program, running)
    if form == "json":
        print_json(abi_json(report))
    else:
        print_lines(abi_text(report).splitlines())
    return EXIT_REFUSED if report.problems else EXIT_DONE
