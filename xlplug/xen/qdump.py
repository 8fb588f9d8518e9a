# SPDX-License-Identifier: LGPL-2.1-only
"""Reading Xen's ``q`` debug key: the only way to learn which I/O rights domains hold.

Pure.  Source of the format: xen/common/keyhandler.c, dump_domains; xen/common/rangeset.c, rangeset_printk.
"""

from xlplug.hypervisor import HeldRights
from xlplug.rangeset import RangeSet

__all__ = ["DUMP_BEGINS", "parse_q"]

DUMP_BEGINS = "'q' pressed"

_DOMAIN = "Rangesets belonging to domain "


def parse_q(text: str) -> dict[int, HeldRights]:
    """Rights by domid from the last dump in ``text``; ``(XEN)`` and timestamp prefixes are allowed for."""
    found: dict[int, HeldRights] = {}
    current: int | None = None
    begin = text.rfind(DUMP_BEGINS)
    for line in text[max(begin, 0) :].splitlines():
        at = line.find(_DOMAIN)
        if at >= 0:
            number = line[at + len(_DOMAIN) :].split(":", 1)[0]
            current = int(number) if number.isdecimal() else None
            if current is not None:
                found[current] = HeldRights()
            continue
        if current is None:
            continue
        for name, field in (("I/O Ports", "ports"), ("I/O Memory", "memory")):
            at = line.find(name)
            if at >= 0 and "{" in line:
                found[current] = found[current]._replace(**{field: RangeSet.parse(line[line.index("{") :])})
        if "Memory pages belonging to domain" in line:
            current = None
    return found
