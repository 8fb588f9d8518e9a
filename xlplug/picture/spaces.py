# SPDX-License-Identifier: LGPL-2.1-only
"""What an address map shows, as values: spaces, rows and cells.  How they look is for svg.py, html.py and terminal.py.

Rows are not to scale: a VGA port range is 12 ports of 65536.  Each row is a range in which nothing changes, and says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.model.addr import PAGE_SHIFT
from xlplug.model.host import E820_RAM, HostSnapshot
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import (
    IOMEM,
    IOPORT,
    IOPORT_MAPPING,
    MEMORY_MAPPING,
    PERMISSIONS,
    POPULATE_PHYSMAP,
    STUBDOM,
    TARGET,
)
from xlplug.physmap import predict, ram
from xlplug.plan import Plan
from xlplug.vga import VGA_MEMORY, VGA_PORTS

__all__ = ["KINDS", "Cell", "Held", "Kind", "Picture", "Row", "Space", "draw"]

HOST = "host"
_PORTS = Range(0, 0x10000)
_LOW = Range(0, 0x100)  # the first MiB, in frames
_4_GIB = 1 << 20

#: What the firmware's map calls the rest.  Source: ACPI 6.5, table 15.6.
_FIRMWARE = {2: "reserved", 3: "ACPI tables", 4: "ACPI NVS", 5: "unusable"}


class Kind(NamedTuple):
    """A sort of cell: its name in the legend, and what that means."""

    name: str
    meaning: str


#: In the order of the legend.  Where several apply to a cell, the last one in `_WINS` does.
KINDS = {
    "legacy": Kind("legacy", "a legacy range of the host: VGA, VBIOS, OpRegion"),
    "bar": Kind("BAR", "a BAR of an assigned device"),
    "memory": Kind("memory", "RAM, or what the firmware keeps"),
    "granted": Kind("granted", "granted by xlplug"),
    "both": Kind("granted by both", "granted by xlplug and by libxl: a revoke leaves it"),
    "libxl": Kind("libxl", "granted by libxl itself"),
    "delegated": Kind("device model", "mapped or populated by the device model"),
    "populated": Kind("populated", "populated by xlplug before the device model starts"),
    "conflict": Kind("conflict", "refused, missing, or wanted by two"),
}
_WINS = ("memory", "bar", "legacy", "libxl", "delegated", "granted", "both", "populated", "conflict")


class Cell(NamedTuple):
    """What is in a range for one column; ``detail`` is for those who point at it."""

    kind: str
    text: str
    detail: str


class Row(NamedTuple):
    """A range, and a cell for each column of its space; None where there is nothing to say."""

    range: Range
    cells: tuple[Cell | None, ...]

    @property
    def empty(self) -> bool:
        """Whether it is only a gap between others."""
        return not any(self.cells)


class Space(NamedTuple):
    """An address space; ``unit`` is what its numbers count."""

    title: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class Picture(NamedTuple):
    """All of it.  ``problems`` are (kind of problem, text)."""

    title: str
    subtitle: str
    spaces: tuple[Space, ...]
    problems: tuple[tuple[str, str], ...]


class Held(NamedTuple):
    """What a running domain has: granted by us, and reported by Xen."""

    grantee: str
    kind: str
    ours: RangeSet
    held: RangeSet


class _Mark(NamedTuple):
    range: Range
    column: str
    kind: str
    text: str
    detail: str


def draw(plan: Plan, config: DomainConfig, host: HostSnapshot, held: Sequence[Held] = ()) -> Picture:
    """The picture of a plan; with ``held``, of a running domain."""
    columns = (HOST, TARGET, STUBDOM) if plan.has_stubdom else (HOST, TARGET)
    machine = [*_host_memory(host), *_legacy_memory(plan, host), *_bars(plan, IOMEM), *_grants(plan, IOMEM, host, held)]
    ports = [*_legacy_ports(), *_bars(plan, IOPORT), *_grants(plan, IOPORT, host, held)]
    who = f"domain {plan.domain or '(no name)'}" + ("" if plan.target is None else f", domid {plan.target}")
    stub = ", behind a stubdomain" if plan.has_stubdom else ""
    return Picture(
        title=f"{who}{stub}, on host {plan.host}",
        subtitle="what it holds now" if held else "what it would be granted",
        spaces=(
            _space("I/O ports", "port", columns, ports, _PORTS),
            _space("Low megabyte of the machine", "mfn", columns, machine, _LOW),
            _condensed(_space("Machine memory", "mfn", columns, machine, Range(_LOW.stop, _end(machine)))),
            _space("Guest memory", "gfn", ("guest",), list(_guest(plan, config)), None),
        ),
        problems=(
            *(("refused", text) for text in map(str, plan.refusals)),
            *(("warning", text) for text in map(str, plan.warnings)),
            *(("note", text) for text in map(str, plan.notes)),
        ),
    )


def _space(title: str, unit: str, columns: tuple[str, ...], marks: Sequence[_Mark], limit: Range | None) -> Space:
    limit = limit or Range(0, _end(marks))
    return Space(title, unit, columns, tuple(_rows(marks, columns, limit)))


def _condensed(space: Space) -> Space:
    """Rows in which nobody has anything are one: a firmware's map has dozens of regions."""
    rows: list[Row] = []
    for row in space.rows:
        plain = all(cell is None or cell.kind == "memory" for cell in row.cells)
        before = rows[-1] if rows else None
        if not plain or before is None or not all(c is None or c.kind == "memory" for c in before.cells):
            rows.append(row)
            continue
        both = [cell for cell in (before.cells[0], row.cells[0]) if cell is not None]
        names = dict.fromkeys(name for cell in both for name in cell.text.split(", "))
        details = dict.fromkeys(cell.detail for cell in both)
        merged = Cell("memory", ", ".join(names), "; ".join(details)) if both else None
        rows[-1] = Row(Range(before.range.start, row.range.stop), (merged, *before.cells[1:]))
    return space._replace(rows=tuple(rows))


def _end(marks: Sequence[_Mark]) -> int:
    return max((mark.range.stop for mark in marks), default=0) or _LOW.stop


def _rows(marks: Iterable[_Mark], columns: Sequence[str], limit: Range) -> Iterator[Row]:
    """Cut where a mark begins or ends; neighbours with the same cells are one row."""
    inside = [
        mark._replace(range=Range(max(mark.range.start, limit.start), min(mark.range.stop, limit.stop)))
        for mark in marks
        if mark.range.start < limit.stop and limit.start < mark.range.stop
    ]
    edges = sorted({limit.start, limit.stop, *(e for mark in inside for e in mark.range)})
    last: Row | None = None
    for start, stop in pairwise(edges):
        here = [mark for mark in inside if mark.range.start <= start and stop <= mark.range.stop]
        cells = tuple(_cell([mark for mark in here if mark.column == column]) for column in columns)
        if last is not None and last.cells == cells:
            last = Row(Range(last.range.start, stop), cells)
            continue
        if last is not None:
            yield last
        last = Row(Range(start, stop), cells)
    if last is not None:
        yield last


def _cell(marks: Sequence[_Mark]) -> Cell | None:
    if not marks:
        return None
    kinds = {mark.kind for mark in marks}
    if {"granted", "libxl"} <= kinds:
        kinds.add("both")
    kind = max(kinds, key=_WINS.index)
    named = [mark for mark in marks if mark.kind == kind] or [mark for mark in marks if mark.kind == "granted"]
    text = ", ".join(dict.fromkeys(mark.text for mark in named)) + (", by libxl too" if kind == "both" else "")
    return Cell(kind, text, "; ".join(dict.fromkeys(mark.detail for mark in marks)))


def _legacy_ports() -> Iterator[_Mark]:
    for ports, text in zip(VGA_PORTS, ("VGA, monochrome", "VGA, colour"), strict=True):
        yield _Mark(ports, HOST, "legacy", text, f"legacy VGA ports {ports.start:x}-{ports.last:x}")


def _legacy_memory(plan: Plan, host: HostSnapshot) -> Iterator[_Mark]:
    yield _Mark(VGA_MEMORY, HOST, "legacy", "VGA frame buffer", "legacy VGA memory, bytes a0000-bffff")
    if host.vbios is not None:
        span = _pages(host.vbios.maddr, host.vbios.maddr + host.vbios.size)
        text = f"made for {host.vbios.vendor:04x}:{host.vbios.device:04x}, {host.vbios.size >> 10} KiB"
        yield _Mark(span, HOST, "legacy", "VBIOS shadow", text)
    for step in plan.steps:
        if step.kind == IOMEM and step.op in PERMISSIONS and step.first >= _LOW.stop:
            yield _Mark(step.range, HOST, "legacy", step.reason, f"{step.reason} of {step.device}")


def _host_memory(host: HostSnapshot) -> Iterator[_Mark]:
    for region in host.memory:
        span = _pages(region.start, region.stop)
        name = "RAM" if region.kind == E820_RAM else _FIRMWARE.get(region.kind, f"type {region.kind}")
        yield _Mark(
            span, HOST, "memory", name, f"the firmware's map: bytes {region.start:x}-{region.stop - 1:x} are {name}"
        )


def _pages(start: int, stop: int) -> Range:
    return Range(start >> PAGE_SHIFT, -(-stop >> PAGE_SHIFT))


def _bars(plan: Plan, kind: str) -> Iterator[_Mark]:
    for each in plan.delegated:
        if each.kind == kind:
            text = f"BAR {each.bar} of {str(each.device).removeprefix('0000:')}"
            yield _Mark(each.range, HOST, "bar", text, f"BAR {each.bar} of {each.device}")
            detail = "the device model maps it where the guest puts it"
            yield _Mark(each.range, TARGET, "delegated", "device model", detail)


def _grants(plan: Plan, kind: str, host: HostSnapshot, held: Sequence[Held]) -> Iterator[_Mark]:
    """Who has which range: by the plan; of a running domain, by its journal and Xen."""
    if held:
        yield from _held(held, kind)
        return
    ram_mfns = RangeSet(_pages(r.start, r.stop) for r in host.ram) if kind == IOMEM else RangeSet()
    for step in plan.steps:
        if step.kind == kind and step.op in PERMISSIONS:
            yield _Mark(step.range, step.grantee, "granted", "granted", f"granted by xlplug: {step.reason}")
            for bad in ram_mfns & RangeSet([step.range]):
                yield _Mark(bad, step.grantee, "conflict", "host RAM", "refused: this is the host's own RAM")
        elif step.kind == kind and step.op in (IOPORT_MAPPING, MEMORY_MAPPING):
            yield _Mark(step.range, step.grantee, "granted", "mapped", f"mapped 1:1 by xlplug: {step.reason}")
    for grant in plan.by_libxl:
        if grant.kind == kind:
            on = f" of {grant.device}" if grant.device else ""
            yield _Mark(grant.range, grant.grantee, "libxl", "libxl", f"granted by libxl: {grant.reason}{on}")


def _held(held: Sequence[Held], kind: str) -> Iterator[_Mark]:
    for each in held:
        if each.kind != kind:
            continue
        for span in each.ours & each.held:
            yield _Mark(span, each.grantee, "granted", "granted", "granted by xlplug, and Xen reports it")
        for span in each.held - each.ours:
            yield _Mark(span, each.grantee, "libxl", "held", "Xen reports it; not granted by xlplug")
        for span in each.ours - each.held:
            yield _Mark(span, each.grantee, "conflict", "MISSING", "granted by xlplug, and taken away since")


def _guest(plan: Plan, config: DomainConfig) -> Iterator[_Mark]:
    """The guest's own map: RAM, what is mapped or populated into it, and the hole for BARs."""
    column = "guest"
    mine = ram(config)
    for span in mine:
        for part in RangeSet([span]) - RangeSet([VGA_MEMORY]):
            yield _Mark(part, column, "memory", "RAM", f"guest RAM, {part.nr * 4 >> 10} MiB")
    mapped = [step for step in plan.steps if step.op == MEMORY_MAPPING]
    for step in mapped:
        first = step.first if step.first_guest is None else step.first_guest
        detail = f"mapped by xlplug, host mfn {step.first:x}-{step.range.last:x}: {step.reason}"
        yield _Mark(Range(first, first + step.nr), column, "granted", "mapped", detail)
    display = any(step.range == VGA_MEMORY or VGA_MEMORY.start in range(*step.range) for step in plan.steps)
    if display and not mapped:
        yield _Mark(VGA_MEMORY, column, "delegated", "VGA frame buffer", "the device model maps the host's a0-bf here")
    for each in config.iomem:
        yield _Mark(
            Range(each.gfn, each.gfn + each.nr), column, "libxl", "iomem=", f"libxl maps host mfn {each.mfn:x} here"
        )
    populated = [step for step in plan.steps if step.op == POPULATE_PHYSMAP]
    for step in populated:
        yield _Mark(step.range, column, "populated", step.reason, f"populated by xlplug: {step.reason}")
    if not populated:
        for block in predict(config)[0] if config.type == "hvm" else ():
            yield _Mark(
                block.range, column, "delegated", block.reason, f"populated by the device model: {block.reason}"
            )
    for bad in (mine & RangeSet(step.range for step in populated)).ranges:
        yield _Mark(bad, column, "conflict", "in guest RAM", "refused: these pages are guest RAM already")
    below = [r.stop for r in mine if r.stop <= _4_GIB]
    taken = RangeSet([*mine, *(s.range for s in populated)])
    if config.type == "hvm" and below:
        for span in RangeSet([(max(below), _4_GIB)]) - taken:
            detail = "no RAM: the guest puts its BARs here, and the device model maps them"
            yield _Mark(span, column, "bar", "BARs go here", detail)
