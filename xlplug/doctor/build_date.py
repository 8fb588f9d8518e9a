# SPDX-License-Identifier: LGPL-2.1-only
"""When the running Xen was compiled, which shows how old its fixes are: point releases and packages number them differently."""

import re
from datetime import date

__all__ = ["built_on", "parse_date"]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def built_on(sys_hypervisor: str) -> date | None:
    """From sysfs; None where it is not there or not understood."""
    try:
        with open(f"{sys_hypervisor}/compilation/compile_date", encoding="ascii", errors="replace") as file:
            return parse_date(file.read())
    except OSError:
        return None


def parse_date(text: str) -> date | None:
    """What date(1) prints in the C locale ("Thu Jun  4 09:12:01 UTC 2026"), or ISO 8601.  Source: xen/Makefile, XEN_BUILD_DATE."""
    iso = re.search(r"\b(\d{4})-(\d\d)-(\d\d)\b", text)
    said = re.search(r"\b([A-Z][a-z]{2}) +(\d{1,2}) .*\b(\d{4})\s*$", text)
    try:
        if iso:
            return date(int(iso[1]), int(iso[2]), int(iso[3]))
        return date(int(said[3]), _MONTHS.index(said[1]) + 1, int(said[2])) if said else None
    except ValueError:
        return None
