# SPDX-License-Identifier: LGPL-2.1-only
"""Reading Xen's ``q`` debug key: the only way to learn which I/O rights domains hold.

Pure, and strict, because what a dump says is held decides what a revoke leaves in place.  Xen takes the console lock
for each piece of a line, and while it dumps, it prints everything (console_start_log_everything), so that other CPUs'
lines, and anything that guests write to the Bochs debug port 0xe9, come in between or tear a line in two.  Xen begins its own lines
with "(XEN)" and a guest's with "(d5)": only the former count, and a dump that is torn is refused, never read in part.
Source: xen/common/keyhandler.c, dump_domains; xen/common/rangeset.c, rangeset_printk; xen/drivers/char/console.c,
vprintk_common and guest_printk.
"""

from xlplug.model.hypervisor import HeldRights, IoreqServerInfo
from xlplug.model.rangeset import RangeSet

__all__ = ["parse_q", "parse_servers"]

_PREFIX = "(XEN) "
_BEGINS = "'q' pressed"
_GENERAL = "General information for domain "
_DOMAIN = "Rangesets belonging to domain "
_DOMAIN_ENDS = "Memory pages belonging to domain "
_PORTS, _MEMORY = "I/O Ports", "I/O Memory"
#: What a server claims: functions as sbdf, guest bytes, ports.  Source: xen/common/ioreq.c, ioreq_server_alloc_rangesets.
_SERVER = r"\s*ioreq_server (\d+) (pci|memory|port)\s+(\{.*)"
_SERVER_SETS = {"pci", "memory", "port"}


def parse_q(text: str) -> dict[int, HeldRights]:
    """Rights by domid from the last dump in ``text``; none when it has no dump.

    Raises:
        ValueError: other output tore the dump; ask Xen for another.
    """
    found: dict[int, HeldRights] = {}
    for domid, lines in _sections(text).items():
        rights: dict[str, RangeSet] = {}
        for line in lines:
            if _PORTS in line or _MEMORY in line:
                name, brace, rest = line.strip().partition("{")
                if name.rstrip() not in (_PORTS, _MEMORY):
                    raise ValueError(f"torn dump: {line!r}")
                rights[name.rstrip()] = _set(brace + rest, line)
        if len(rights) != 2:  # Xen makes both sets with the domain and prints them even when they are empty
            raise ValueError(f"torn dump: domain {domid} has {', '.join(rights) or 'neither set'}")
        found[domid] = HeldRights(rights[_PORTS], rights[_MEMORY])
    return found


def parse_servers(text: str) -> dict[int, tuple[IoreqServerInfo, ...]]:
    """The ioreq servers by domid from the last dump in ``text``, in order of their ids.

    Raises:
        ValueError: other output tore the dump; ask Xen for another.
    """
    import re  # not above: the hook's processes load this module, and re takes longest of all

    found: dict[int, tuple[IoreqServerInfo, ...]] = {}
    for domid, lines in _sections(text).items():
        servers: dict[int, dict[str, RangeSet]] = {}
        for line in lines:
            if "ioreq_server" not in line:
                continue
            match = re.fullmatch(_SERVER, line)
            if match is None:
                raise ValueError(f"torn dump: {line!r}")
            servers.setdefault(int(match[1]), {})[match[2]] = _set(match[3], line)
        for number, sets in servers.items():
            if set(sets) != _SERVER_SETS:
                raise ValueError(f"torn dump: ioreq server {number} of domain {domid} has {', '.join(sets)} only")
        found[domid] = tuple(
            IoreqServerInfo(number, sets["pci"], sets["memory"], sets["port"])
            for number, sets in sorted(servers.items())
        )
    return found


def _set(text: str, line: str) -> RangeSet:
    if not text.endswith("}"):
        raise ValueError(f"torn dump: {line!r}")
    return RangeSet.parse(text)


def _sections(text: str) -> dict[int, list[str]]:
    """The lines about each domain's rangesets in the last dump."""
    found: dict[int, list[str]] = {}
    announced: set[str] = set()
    current: list[str] | None = None
    for line in map(_xens_own, _last_dump(text).splitlines()):
        if _DOMAIN in line:
            number = line.removeprefix(_DOMAIN).removesuffix(":")
            if not number.isdecimal() or int(number) in found:
                raise ValueError(f"torn dump: {line!r}")
            current = found.setdefault(int(number), [])
        elif _GENERAL in line:
            announced.add(line.removeprefix(_GENERAL).removesuffix(":"))
        elif _DOMAIN_ENDS in line:
            current = None
        elif current is not None:
            current.append(line)
    if announced != {str(domid) for domid in found}:
        raise ValueError(f"torn dump: domains {sorted(announced)} begin, {sorted(found)} have sets")
    return found


def _last_dump(text: str) -> str:
    """From the line on with which Xen begins it.  A ring may hold megabytes of what was before."""
    end = len(text)
    while (at := text.rfind(_BEGINS, 0, end)) >= 0:
        end = text.rfind("\n", 0, at) + 1
        # Python takes more than a newline for the end of a line, here as in `_sections`.
        lines = text[end : text.find("\n", at) + 1 or len(text)].splitlines(keepends=True)
        while lines:
            if _xens_own(lines[-1]).startswith(_BEGINS):
                return text[end + sum(map(len, lines[:-1])) :]
            lines.pop()
    return ""


def _xens_own(line: str) -> str:
    """The line without Xen's prefix and timestamp; "" for a guest's.  One with neither prefix can name no set."""
    if line.startswith("(d"):
        return ""
    if not line.startswith(_PREFIX):
        return f"? {line}"
    body = line.removeprefix(_PREFIX)
    return body.partition("] ")[2] if body.startswith("[") else body
