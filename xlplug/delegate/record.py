# SPDX-License-Identifier: LGPL-2.1-only
"""Which BARs a guest has, where they are on the host, and who must map them: below ``/libxl/<domid>/xlplug-devices``.

Beside the journal of what was granted.  libxl removes it with the domain.  dom0 writes it, and the domain in which the device
model runs may read it.  docs/delegation.md describes it as an interface; these are its nodes:

    version, uuid, dm                 "1"; the guest's uuid, because domids are used again; the device model's domain
    device-model/<n>/host             a function that the device model has to map (pci=), and its BARs
    delegate/<n>/host, guest          one that the delegate serves, and where the guest sees it
    .../bar-<0..5>                    "memory64-prefetch 38000000-38ffffff": kind, and machine range, both ends inclusive
    delegate-process/{server,pid,started,state}   the ioreq server; the supervisor and its start (stat(5), field 22); a file
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from xlplug.dom0 import nodes
from xlplug.model.addr import Domid
from xlplug.model.bar import BARS, Bar, bars_of
from xlplug.model.bdf import Bdf
from xlplug.model.errors import StoreError, XlplugError
from xlplug.model.host import PciDevice
from xlplug.model.hypervisor import Nodes, Store
from xlplug.model.occasion import Who

__all__ = [
    "DelegateProcess", "RecordStore", "RecordedDevice", "Record", "forget_delegate", "note_device_model", "process_started",
    "read", "write_delegate", "write_device_model",
]  # fmt: skip

_VERSION = "1"


class RecordStore(Store, Protocol):
    """A xenstore in which another domain can be let read."""

    def let_read(self, path: str, domid: int) -> None:
        """dom0 alone writes the node, ``domid`` reads it; nodes made below it later are the same."""
        ...


class RecordedDevice(NamedTuple):
    """A function and its BARs; ``guest`` is None where the device model chooses the address."""

    host: Bdf
    bars: tuple[Bar, ...]
    guest: Bdf | None = None


class DelegateProcess(NamedTuple):
    """The delegate: its ioreq server, its supervisor (and the clock tick that it was started at), the path of its state."""

    server: int
    pid: int
    started: int
    state: str


class Record(NamedTuple):
    """All of it.  ``dm`` is the domain of the device model, 0 for dom0."""

    domid: Domid
    uuid: str
    dm: Domid
    device_model: tuple[RecordedDevice, ...] = ()
    delegate: tuple[RecordedDevice, ...] = ()
    process: DelegateProcess | None = None


def write_device_model(store: RecordStore, domid: int, uuid: str, dm: int, devices: tuple[RecordedDevice, ...]) -> None:
    """Replace what the device model has to map."""

    def change(view: Nodes) -> None:
        _write_devices(view, f"{nodes.devices(domid)}/device-model", devices)

    _write(store, domid, uuid, dm, change)


def note_device_model(store: RecordStore, who: Who, uuid: str, devices: Iterable[PciDevice]) -> None:
    """Write what the device model of a guest has to map: the BARs of what is assigned to it."""
    found = tuple(RecordedDevice(device.bdf, bars_of(device)) for device in devices)
    if found and who.target is not None:
        write_device_model(store, who.target, uuid, who.device_model, found)


def write_delegate(
    store: RecordStore, domid: int, uuid: str, dm: int, devices: tuple[RecordedDevice, ...], process: DelegateProcess
) -> None:
    """Replace what the delegate serves, and who it is."""

    def change(view: Nodes) -> None:
        _write_devices(view, f"{nodes.devices(domid)}/delegate", devices)
        for name, value in process._asdict().items():
            view.write(f"{nodes.devices(domid)}/delegate-process/{name}", str(value))

    _write(store, domid, uuid, dm, change)


def forget_delegate(store: Store, domid: int) -> None:
    """Remove the delegate's part, and all of it when nothing else is there."""
    path = nodes.devices(domid)
    store.remove(f"{path}/delegate")
    store.remove(f"{path}/delegate-process")
    if not store.list(f"{path}/device-model"):
        store.remove(path)


def _write(store: RecordStore, domid: int, uuid: str, dm: int, change: Callable[[Nodes], None]) -> None:
    """Write the head and what ``change`` writes, at once; nothing for a domain that libxl is removing, or has removed."""
    path = nodes.devices(domid)

    def begin(view: Nodes) -> bool:
        if view.read(nodes.domain(domid)) is None or view.read(f"{path}/uuid") == uuid:
            return False
        view.remove(path)  # an earlier guest's of that number
        view.write(path, "")
        return True

    def fill(view: Nodes) -> None:
        if view.read(nodes.domain(domid)) is None:
            return
        for name, value in (("version", _VERSION), ("uuid", uuid), ("dm", str(dm))):
            view.write(f"{path}/{name}", value)
        change(view)

    if store.atomically(begin) and dm:
        store.let_read(path, dm)  # what is made below it from now on may be read as well
    store.atomically(fill)


def _write_devices(store: Nodes, path: str, devices: tuple[RecordedDevice, ...]) -> None:
    store.remove(path)
    for i, device in enumerate(devices):
        store.write(f"{path}/{i}/host", str(device.host))
        if device.guest is not None:
            store.write(f"{path}/{i}/guest", str(device.guest))
        for bar in device.bars:
            store.write(f"{path}/{i}/bar-{bar.number}", str(bar))


def read(store: Store, domid: int) -> Record | None:
    """The record; None where there is none.

    Raises:
        StoreError: a node that this version did not write.
    """
    path = nodes.devices(domid)
    if store.read(f"{path}/uuid") is None:
        return None
    try:
        if store.read(f"{path}/version") != _VERSION:
            raise ValueError("version")  # noqa: TRY301 - one way out for all that is not as it is written
        process = None
        if store.list(f"{path}/delegate-process"):
            values = [store.read(f"{path}/delegate-process/{name}") or "" for name in DelegateProcess._fields]
            process = DelegateProcess(int(values[0]), int(values[1]), int(values[2]), values[3])
        return Record(
            Domid(domid), store.read(f"{path}/uuid") or "", Domid(int(store.read(f"{path}/dm") or "")),
            _read_devices(store, f"{path}/device-model"), _read_devices(store, f"{path}/delegate"), process,
        )  # fmt: skip
    except (ValueError, XlplugError) as error:
        raise StoreError(
            f"xenstore: {path} is not as xlplug writes it ({error})",
            hint="was it written by another version of xlplug?",
            code="XLP714",
        ) from error


def _read_devices(store: Store, path: str) -> tuple[RecordedDevice, ...]:
    found = []
    for name in sorted(store.list(path), key=int):
        guest = store.read(f"{path}/{name}/guest")
        bars = tuple(
            Bar.parse(index, text)
            for index in range(BARS)
            if (text := store.read(f"{path}/{name}/bar-{index}")) is not None
        )
        host = Bdf.parse(store.read(f"{path}/{name}/host") or "")
        found.append(RecordedDevice(host, bars, None if guest is None else Bdf.parse(guest)))
    return tuple(found)


def process_started(pid: int) -> int | None:
    """The clock tick at which a living process started, None when it has ended.  A pid is used again, with its start it is not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # from field 3 on; the name in field 2 may hold anything
            return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError):
        return None
