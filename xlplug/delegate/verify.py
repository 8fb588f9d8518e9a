# SPDX-License-Identifier: LGPL-2.1-only
"""The record against Xen, the host and the guest: pure comparison of what was read.

Of what a delegate serves, Xen's dump shows which ranges are sent to it, and its state shows what the guest has programmed.  Of
what the device model maps directly, Xen shows which ranges the guest may be given, and nobody shows where they are mapped.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from xlplug.delegate.config_space import ConfigSpace
from xlplug.delegate.record import Record, RecordedDevice
from xlplug.model.addr import page_span
from xlplug.model.bar import Bar, bars_of
from xlplug.model.bdf import Bdf
from xlplug.model.host import PCIBACK_DRIVERS, PciDevice
from xlplug.model.hypervisor import HeldRights, IoreqServerInfo
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet

__all__ = ["BarReport", "DeviceReport", "Kept", "Report", "Seen", "verify", "report_json", "report_text"]

DELEGATE, DEVICE_MODEL = "delegate", "device-model"
LIVE, OFF, HIDDEN, MISSING, GRANTED, NOT_GRANTED = "live", "off", "hidden", "missing", "granted", "not granted"


class BarReport(NamedTuple):
    """A BAR, where the guest has it (None: nowhere, or nobody knows), and what has become of it."""

    bar: Bar
    state: str
    at: Range | None = None


class DeviceReport(NamedTuple):
    """A function: who must map its BARs, and whether they do."""

    device: RecordedDevice
    mapper: str
    bars: tuple[BarReport, ...]


class Report(NamedTuple):
    """Everything, with what is wrong.  ``serving`` is the delegate's process, 0 where none lives."""

    record: Record
    devices: tuple[DeviceReport, ...]
    problems: tuple[Problem, ...]
    serving: int = 0


class Kept(NamedTuple):
    """What a delegate has kept of a function: its registers, and the ranges that Xen was asked for, by BAR."""

    registers: bytes
    asked: dict[int, Range]


class Seen(NamedTuple):
    """What was read: Xen's dump, the host's functions, what the delegate keeps by function, and its process (0: dead)."""

    servers: tuple[IoreqServerInfo, ...] = ()
    held: dict[int, HeldRights] = {}
    host: dict[Bdf, PciDevice] = {}
    kept: tuple[Kept, ...] = ()
    serving: int = 0
    supervised: bool = False


def verify(record: Record, seen: Seen) -> Report:
    """Compare."""
    problems: list[Problem] = [*_host(record, seen)]
    devices = [*_device_model(record, seen, problems)]
    if record.process is not None:
        devices += _delegate(record, seen, problems)
    return Report(record, tuple(devices), tuple(problems), seen.serving)


def _host(record: Record, seen: Seen) -> Iterable[Problem]:
    """Whether the host still is as recorded."""
    for device in (*record.device_model, *record.delegate):
        found = seen.host.get(device.host)
        if found is None:
            yield Problem(
                f"{device.host} is gone from the host", "the guest reads all ones there; shut it down", code="XLP721"
            )
        elif bars_of(found) != device.bars:
            yield Problem(
                f"the BARs of {device.host} have moved on the host since they were recorded",
                "restart the guest",
                code="XLP721",
            )
        elif found.driver not in PCIBACK_DRIVERS:
            yield Problem(
                f"{device.host} is not bound to pciback any more",
                f"dom0 may use it as well; run: xl pci-assignable-add {device.host}",
                code="XLP721",
            )
        elif device in record.delegate and found.owner is not None:
            yield Problem(
                f"{device.host} is delegated, and assigned to domain {found.owner}, whose device model maps it as well",
                f"run: xl pci-detach {found.owner} {device.host}",
                code="XLP721",
            )


def _device_model(record: Record, seen: Seen, problems: list[Problem]) -> Iterable[DeviceReport]:
    """Functions that the device model maps: the guest, and the domain of its device model, must hold the ranges."""
    holders = [record.domid, *([record.dm] if record.dm else [])]
    for device in record.device_model:
        reports = []
        for bar in device.bars:
            without = [d for d in holders if not _holds(seen.held.get(d, HeldRights()), bar)]
            for domid in without:
                problems.append(Problem(
                    f"domain {domid} does not hold BAR {bar.number} of {device.host}, {_words(bar)}",
                    "the device model cannot map it; was the device detached?", code="XLP721"))  # fmt: skip
            reports.append(BarReport(bar, NOT_GRANTED if without else GRANTED))
        yield DeviceReport(device, DEVICE_MODEL, tuple(reports))


def _holds(rights: HeldRights, bar: Bar) -> bool:
    if not bar.is_memory:
        return rights.ports.covers(bar.start, bar.stop)
    first, count = page_span(bar.start, bar.stop)
    return rights.memory.covers(first, first + count)


def _delegate(record: Record, seen: Seen, problems: list[Problem]) -> Iterable[DeviceReport]:
    """Functions that the delegate serves."""
    process = record.process
    assert process is not None  # noqa: S101 - asked by the caller
    server = next((server for server in seen.servers if server.id == process.server), None)
    adopt = f"run: xlplug dm {record.domid} --adopt"
    if not seen.serving:
        what = "no process serves the delegated devices, and a vCPU that touches them waits"
        problems.append(Problem(what, adopt, code="XLP721"))
    elif not seen.supervised:
        what = f"process {seen.serving} serves without its supervisor, process {process.pid}"
        problems.append(Problem(what, adopt, code="XLP721"))
    if server is None:
        problems.append(
            Problem(
                f"ioreq server {process.server} is gone", "the guest reads all ones there; restart it", code="XLP721"
            )
        )
        server = IoreqServerInfo(process.server)
    if len(seen.kept) != len(record.delegate):
        problems.append(
            Problem(
                "what the delegate keeps is not there", f"{process.state} was removed; restart the guest", code="XLP721"
            )
        )
        return []
    reports, memory, ports = [], RangeSet(), RangeSet()
    for device, kept in zip(record.delegate, seen.kept, strict=True):
        bars = tuple(_bars(device, kept, server))
        reports.append(DeviceReport(device, DELEGATE, bars))
        memory |= RangeSet(report.at for report in bars if report.at and report.bar.is_memory)
        ports |= RangeSet(report.at for report in bars if report.at and not report.bar.is_memory)
        problems += [
            Problem(
                f"BAR {report.bar.number} of {device.host} is programmed, and Xen sends {_inclusive(report.at)} to nobody",
                "restart the guest",
                code="XLP722",
            )
            for report in bars
            if report.state == MISSING
        ]
    problems += _beyond(record, server, memory, ports)
    problems += _others(server, seen.servers)
    return reports


def _bars(device: RecordedDevice, kept: Kept, server: IoreqServerInfo) -> Iterable[BarReport]:
    """What has become of each BAR of a function that the delegate serves."""
    config = ConfigSpace(kept.registers, device.bars, bytearray(kept.registers))
    live = {decoded.bar.number: Range(decoded.start, decoded.stop) for decoded in config.decoded()}
    for bar in device.bars:
        at = live.get(bar.number)
        claimed = server.memory if bar.is_memory else server.ports
        if at is None:
            yield BarReport(bar, OFF)
        elif kept.asked.get(bar.number) != at:  # the delegate has seen that another BAR of its own is there
            yield BarReport(bar, HIDDEN, at)
        else:
            yield BarReport(bar, LIVE if claimed.covers(*at) else MISSING, at)


def _beyond(record: Record, server: IoreqServerInfo, memory: RangeSet, ports: RangeSet) -> Iterable[Problem]:
    """What the server claims and the guest has not programmed."""
    functions = RangeSet((d.guest.sbdf, d.guest.sbdf + 1) for d in record.delegate if d.guest is not None)
    for what, claimed, wanted in (
        ("functions", server.pci, functions), ("memory", server.memory, memory), ("ports", server.ports, ports),
    ):  # fmt: skip
        if claimed - wanted:
            yield Problem(
                f"ioreq server {server.id} claims {what} {claimed - wanted} beyond the record",
                "restart the guest",
                code="XLP722",
            )
    if functions - server.pci and server.pci:
        yield Problem(
            f"ioreq server {server.id} lacks functions {functions - server.pci}", "restart the guest", code="XLP722"
        )


def _others(server: IoreqServerInfo, servers: tuple[IoreqServerInfo, ...]) -> Iterable[Problem]:
    """Xen asks servers from the highest id down, so a later one hides what is ours."""
    for other in servers:
        if other.id == server.id:
            continue
        if other.pci & server.pci:
            yield Problem(
                f"ioreq server {other.id} also claims functions {other.pci & server.pci}",
                "give them another vslot",
                code="XLP722",
            )
        if other.id > server.id and (other.memory & server.memory or other.ports & server.ports):
            yield Problem(
                f"ioreq server {other.id} answers for {other.memory & server.memory} and ports {other.ports & server.ports}",
                "the guest has put two devices at one address",
                code="XLP722",
            )


def _words(bar: Bar) -> str:
    return f"{'memory' if bar.is_memory else 'ports'} {_inclusive(bar.range)}"


def _inclusive(at: Range | None) -> str:
    return "-" if at is None else f"{at.start:x}-{at.last:x}"


def report_text(report: Report) -> str:
    """For people."""
    record, process = report.record, report.record.process
    lines = [f"domain {record.domid}: device model in {f'domain {record.dm}' if record.dm else 'dom0'}"]
    if process is not None:
        serving = f"process {report.serving}" if report.serving else "no process"
        lines.append(f"delegate: {serving}, supervisor {process.pid}, ioreq server {process.server}")
    for device in report.devices:
        where = f", in the guest {device.device.guest}" if device.device.guest else ""
        verb = "served" if device.mapper == DELEGATE else "mapped"
        lines.append(f"host {device.device.host}{where}: {verb} by the {device.mapper.replace('-', ' ')}")
        for bar in device.bars:
            at = f" at {_inclusive(bar.at)}" if bar.at else ""
            lines.append(f"  BAR {bar.bar.number}  {bar.bar}  {bar.state}{at}")
    lines += [f"problem: {problem}" for problem in report.problems]
    count = len(report.problems)
    lines.append("everything agrees" if not count else f"{count} problem{'s' if count > 1 else ''}")
    return "\n".join(lines) + "\n"


VERIFY_SCHEMA = "xlplug/verify/1"


def report_json(report: Report) -> dict[str, Any]:
    """For programs: docs/verify.schema.json."""
    process = report.record.process
    return {
        "schema": VERIFY_SCHEMA,
        "domid": report.record.domid,
        "uuid": report.record.uuid,
        "device_model_domain": report.record.dm,
        "delegate": None
        if process is None
        else {"pid": process.pid, "serving": report.serving or None, "server": process.server},
        "devices": [
            {
                "host": str(device.device.host),
                "guest": None if device.device.guest is None else str(device.device.guest),
                "mapper": device.mapper,
                "bars": [
                    {
                        "index": bar.bar.number,
                        "kind": bar.bar.kind,
                        "prefetch": bar.bar.prefetch,
                        "machine": {"first": bar.bar.start, "count": bar.bar.size},
                        "state": bar.state,
                        "guest": None if bar.at is None else {"first": bar.at.start, "count": bar.at.nr},
                    }
                    for bar in device.bars
                ],
            }
            for device in report.devices
        ],
        "problems": [problem._asdict() for problem in report.problems],
    }
