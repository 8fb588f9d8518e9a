# SPDX-License-Identifier: LGPL-2.1-only
"""Hosts and domains as JSON: ``xlplug/host/1`` and ``xlplug/domain/1`` (docs/recording.md).

Numbers are integers, byte strings hexadecimal text.  Reading is strict: a file that does not follow the schema is refused
with the field's name.  Serial numbers and MACs never get in: config space is cut at 256 bytes, before PCIe's
serial number capability, and the data register of vital product data is blanked.
"""

import os
from typing import Any, NamedTuple

from xlplug.dom0.files import read_all, write_whole
from xlplug.dom0.json_field import Field
from xlplug.model import lean_json
from xlplug.model.addr import Domid
from xlplug.model.errors import HostError
from xlplug.model.host import (
    MEMORY,
    OPREGION,
    VBIOS,
    HostNote,
    HostSnapshot,
    MemRegion,
    OpRegion,
    PciDevice,
    Resource,
    Vbios,
    XenInfo,
)
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.problem import Problem

__all__ = ["DomainRecording", "dump_domain", "dump_host", "load_domain", "load_host", "scrub_libxl", "write_domain"]

HOST_SCHEMA = "xlplug/host/1"
DOMAIN_SCHEMA = "xlplug/domain/1"
#: How the notes of older recordings begin, which were one sentence each.
_OLD_NOTES = {"OpRegion header not read": OPREGION, "VBIOS header not read": VBIOS, "the machine's memory map": MEMORY}
_SECRETS = {"mac", "passwd"}  # of libxl_types.idl: device_nic.mac; vnc_info.passwd, spice_info.passwd


class DomainRecording(NamedTuple):
    """A live domain as it was: itself, its stubdomain, what both held, and its configuration in either form."""

    host: HostSnapshot
    target: DomainInfo
    target_rights: HeldRights
    stubdom: DomainInfo | None = None
    stubdom_rights: HeldRights = HeldRights()
    name: str = ""
    config: bytes | None = None
    libxl_json: bytes | None = None


# writing --------------------------------------------------------------------------------------------------------------


def dump_host(host: HostSnapshot) -> str:
    """The host's JSON text, the same bytes for the same host."""
    opregion = host.opregion
    data = {
        "schema": HOST_SCHEMA,
        "name": host.name,
        "provenance": host.provenance,
        "xen": None if host.xen is None else {**host.xen._asdict(), "version": list(host.xen.version)},
        "libraries": dict(host.libraries),
        "notes": [{"about": n.about, "what": n.problem.what, "advice": n.problem.advice} for n in host.notes],
        "memory": [m._asdict() for m in host.memory],
        "opregion": None if opregion is None else {**opregion._asdict(), "signature": opregion.signature.hex()},
        "vbios": None if host.vbios is None else host.vbios._asdict(),
        **({"mmcfg": [list(window) for window in host.mmcfg]} if host.mmcfg else {}),
        **({"distribution": host.distribution} if host.distribution else {}),
        **({} if host.kept_ports is None else {"kept_ports": [list(span) for span in host.kept_ports]}),
        "devices": [_device_out(d) for d in host.devices],
    }
    return _text(data)


def _device_out(device: PciDevice) -> dict[str, Any]:
    return {
        **device._asdict(),
        "bdf": str(device.bdf),
        "resources": [r._asdict() for r in device.resources],
        "config": _without_serials(device.config).hex(),
        "physfn": None if device.physfn is None else str(device.physfn),
    }


def _without_serials(config: bytes) -> bytes:
    """Config space cut at 256 bytes, the data register of a vital product data capability (id 3) blanked.

    Source: PCI Local Bus Specification 3.0, 6.7 (capability list, pointer at 0x34) and appendix I (VPD data at +4).
    """
    raw = bytearray(config[:256])
    at = raw[0x34] & 0xFC if len(raw) == 256 and raw[0x06] & 0x10 else 0
    for _ in range(48):
        if at < 0x40:
            break
        if raw[at] == 3:
            raw[at + 4 : at + 8] = bytes(len(raw[at + 4 : at + 8]))
        at = raw[at + 1] & 0xFC
    return bytes(raw)


def dump_domain(domain: DomainRecording) -> str:
    """``domain.json``'s text."""
    data = {
        "schema": DOMAIN_SCHEMA,
        "name": domain.name,
        "target": _domain_out(domain.target, domain.target_rights),
        "stubdom": None if domain.stubdom is None else _domain_out(domain.stubdom, domain.stubdom_rights),
    }
    return _text(data)


def _domain_out(info: DomainInfo, rights: HeldRights) -> dict[str, Any]:
    return {
        **{name: value for name, value in info._asdict().items() if name != "cpu_time"},
        "ports": [list(r) for r in rights.ports],
        "memory": [list(r) for r in rights.memory],
    }


def write_domain(domain: DomainRecording, folder: str) -> None:
    """Write a recording's files into ``folder``, which is made when absent.

    Raises:
        HostError, OSError: something cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    files: dict[str, bytes | None] = {
        "host.json": dump_host(domain.host).encode(),
        "domain.json": dump_domain(domain).encode(),
        "domain.cfg": domain.config,
        "libxl.json": domain.libxl_json,
    }
    for name, data in files.items():
        if data is not None:
            write_whole(os.path.join(folder, name), data)


def scrub_libxl(data: bytes) -> bytes:
    """libxl's JSON without what must not leave the host: MACs and passwords.

    Raises:
        HostError: it is not JSON.
    """
    try:
        value = lean_json.loads(data.rstrip(b"\0"))
        text = _without_secrets(value)
    except (ValueError, RecursionError) as error:
        raise HostError(f"libxl's record of the domain is not JSON ({error})", code="XLP204") from error
    return text.encode()


def _without_secrets(value: Any) -> str:  # noqa: ANN401 - any JSON
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for key in _SECRETS & item.keys():
                del item[key]
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return _text(value)


def _text(data: dict[str, Any]) -> str:
    import json

    return json.dumps(data, indent=1) + "\n"


# reading --------------------------------------------------------------------------------------------------------------


def load_host(path: str) -> HostSnapshot:
    """A recorded host.

    Raises:
        HostError: the file is absent, is not JSON, or does not follow the schema; the error names file and field.
    """
    top = Field(_load(path), path, "")
    top.schema(HOST_SCHEMA)
    opregion, vbios, xen = top.get("opregion"), top.get("vbios"), top.get("xen")
    devices = tuple(_device_in(d) for d in top.get("devices").list())
    if len({d.bdf for d in devices}) != len(devices):
        top.get("devices").bad("names a device twice")
    return HostSnapshot(
        name=top.get("name").str(),
        provenance=top.get("provenance").str(),
        xen=None if xen.value is None else _xen_in(xen),
        libraries=tuple((name, path.str()) for name, path in top.get("libraries").dict().items()),
        notes=tuple(_note_in(note) for note in top.get("notes").list()),
        memory=tuple(_region_in(region) for region in top.get("memory").list()),
        opregion=None if opregion.value is None else _opregion_in(opregion),
        vbios=None if vbios.value is None else Vbios(*(vbios.get(name).int() for name in Vbios._fields)),
        devices=devices,
        # Not in older recordings.
        mmcfg=top.get("mmcfg").ranges().ranges if "mmcfg" in top.dict() else (),
        distribution=top.get("distribution").str() if "distribution" in top.dict() else "",
        kept_ports=top.get("kept_ports").ranges() if "kept_ports" in top.dict() else None,
    )


def _xen_in(field: Field) -> XenInfo:
    version = field.get("version").list()
    if len(version) != 2:
        field.get("version").bad("is not [major, minor]")
    return XenInfo((version[0].int(), version[1].int()), field.get("text").str(), field.get("capabilities").str())


def _region_in(field: Field) -> MemRegion:
    region = MemRegion(*(field.get(name).int() for name in MemRegion._fields))
    if region.start >= region.stop:
        field.bad("ends before it starts")
    return region


def _opregion_in(field: Field) -> OpRegion:
    numbers = {name: field.get(name).int() for name in OpRegion._fields if name != "signature"}
    return OpRegion(signature=field.get("signature").hex(), **numbers)


def _note_in(field: Field) -> HostNote:
    if isinstance(field.value, str):  # recorded before notes had parts
        about = next((about for start, about in _OLD_NOTES.items() if field.value.startswith(start)), "")
        return HostNote(about, Problem(field.value))
    return HostNote(field.get("about").str(), Problem(field.get("what").str(), field.get("advice").str()))


def _device_in(field: "Field") -> PciDevice:
    resources = []
    for entry in field.get("resources").list():
        resources.append(Resource(*(entry.get(name).int() for name in Resource._fields)))
        if resources[-1].start >= resources[-1].stop:
            entry.bad("ends before it starts")
    physfn, owner, group = field.get("physfn"), field.get("owner"), field.get("iommu_group")
    return PciDevice(
        bdf=field.get("bdf").bdf(),
        vendor=field.get("vendor").int(1 << 16),
        device=field.get("device").int(1 << 16),
        class_code=field.get("class_code").int(1 << 24),
        resources=tuple(resources),
        config=field.get("config").hex(),
        boot_vga=field.get("boot_vga").bool_or_none(),
        physfn=None if physfn.value is None else physfn.bdf(),
        driver=None if field.get("driver").value is None else field.get("driver").str(),
        iommu_group=None if group.value is None else group.int(),
        owner=None if owner.value is None else Domid(owner.int(1 << 16)),
    )


def load_domain(folder: str) -> DomainRecording:
    """A recorded domain: the folder that ``xlplug record domain`` wrote.

    Raises:
        HostError: a file is absent or does not follow its schema.
    """
    host = load_host(os.path.join(folder, "host.json"))
    path = os.path.join(folder, "domain.json")
    top = Field(_load(path), path, "")
    top.schema(DOMAIN_SCHEMA)
    target, rights = _domain_in(top.get("target"))
    stubdom, stubdom_rights = None, HeldRights()
    if top.get("stubdom").value is not None:
        stubdom, stubdom_rights = _domain_in(top.get("stubdom"))
    return DomainRecording(
        host=host,
        target=target,
        target_rights=rights,
        stubdom=stubdom,
        stubdom_rights=stubdom_rights,
        name=top.get("name").str(),
        config=_bytes(os.path.join(folder, "domain.cfg")),
        libxl_json=_bytes(os.path.join(folder, "libxl.json")),
    )


def _domain_in(field: "Field") -> tuple[DomainInfo, HeldRights]:
    flags = {name: field.get(name).bool_or_none() or False for name in ("hvm", "dying", "paused", "shutdown")}
    info = DomainInfo(
        domid=field.get("domid").int(1 << 16),
        nr_pages=field.get("nr_pages").int(),
        max_pages=field.get("max_pages").int(),
        uuid=field.get("uuid").str(),
        **flags,
    )
    return info, HeldRights(field.get("ports").ranges(), field.get("memory").ranges())


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return read_all(file, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "give a recording that can be read (see 'xlplug record')"
        raise HostError(f"{path}: {error.strerror}", hint=hint, code="XLP804") from error


def _load(path: str) -> object:
    data = _bytes(path)
    if data is None:
        raise HostError(f"{path}: no such file", hint="make one with 'xlplug record'", code="XLP804")
    try:
        return lean_json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HostError(f"{path}: not JSON ({error})", hint="make one with 'xlplug record'", code="XLP805") from error
