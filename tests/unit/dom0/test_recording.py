# SPDX-License-Identifier: LGPL-2.1-only
"""Recordings: byte-stable, strict, and without what must not get in."""

import json
import random
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import jsonschema
import pytest

from tests.conftest import RECORDED
from xlplug.dom0.recording import (
    DomainRecording,
    dump_domain,
    dump_host,
    load_domain,
    load_host,
    scrub_libxl,
    write_domain,
)
from xlplug.igd import opregion_mfns, page_fault
from xlplug.model.bdf import Bdf
from xlplug.model.errors import HostError
from xlplug.model.host import OPREGION, VBIOS, HostNote, HostSnapshot, PciDevice
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range, RangeSet

HOSTS = sorted((RECORDED / "hosts").glob("*.json"))
SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "host.schema.json").read_text())


@pytest.mark.parametrize("path", HOSTS, ids=lambda p: p.stem)
def test_recorded_hosts_are_whole(path: Path) -> None:
    host = load_host(str(path))
    assert dump_host(host) == path.read_text(), "not byte-stable"
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert host.name == path.stem
    assert len(host.provenance) > 60, "says where its facts come from"
    assert "Constructed" in host.provenance or "constructed" in host.provenance or "seen on" in host.provenance
    for device in host.devices:
        assert int.from_bytes(device.config[0:2], "little") == device.vendor
        assert int.from_bytes(device.config[9:12], "little") == device.class_code
        for resource in device.resources:
            if not resource.is_port:
                assert not host.ram.overlaps(resource.start, resource.stop), "a BAR in RAM"
    edges = sorted((m.start, m.stop) for m in host.memory)
    assert all(a[1] <= b[0] for a, b in zip(edges, edges[1:], strict=False)), "memory map overlaps"
    if host.opregion is not None and path.stem not in (
        "igd-malformed-opregion",
        "igd-opregion-in-ram",
        "igd-opregion-third-page",
    ):
        assert not any(page_fault(mfn, host) for mfn in range(*opregion_mfns(host.opregion.maddr)))


@pytest.mark.parametrize("kept", [None, RangeSet(), RangeSet([(0x20, 0x22), (0x3F8, 0x400)])])
def test_what_older_recordings_have_not(tmp_path: Path, kept: RangeSet | None) -> None:
    host = load_host(str(HOSTS[0]))._replace(
        kept_ports=kept, distribution="debian", mmcfg=(Range(0xC0000000, 0xD0000000),)
    )
    path = tmp_path / "host.json"
    path.write_text(dump_host(host))
    assert load_host(str(path)) == host
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)


def test_the_list_of_hosts_is_in_the_readme() -> None:
    text = (RECORDED / "README.md").read_text()
    assert [p.stem for p in HOSTS if f"`{p.stem}`" not in text] == []


def test_malformed_recordings_are_host_errors(tmp_path: Path) -> None:
    good = HOSTS[0].read_text()
    rng = random.Random(5)
    values = [None, True, -1, 1 << 70, 1.5, "", "x", [], {}, [1], {"a": 1}, "0000:00:02.0", 0]
    path = tmp_path / "host.json"
    refused = 0
    for _ in range(500):
        broken = json.loads(good)
        spot = broken
        while True:
            key = rng.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
            if isinstance(spot[key], dict | list) and spot[key] and rng.random() < 0.8:
                spot = spot[key]
                continue
            if rng.random() < 0.3:
                del spot[key]
            else:
                spot[key] = rng.choice(values)
            break
        path.write_text(json.dumps(broken))
        try:
            load_host(str(path))
        except HostError as error:
            refused += 1
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
    assert refused > 400


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100000, b'{"schema": "xlplug/host/2"}', b"null"])
def test_what_is_no_recording(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "h.json"
    path.write_bytes(data)
    with pytest.raises(HostError):
        load_host(str(path))


def test_notes_of_older_recordings_keep_their_meaning(tmp_path: Path) -> None:
    """They were one sentence each; which part of the host they are about was in the words."""
    data = json.loads((RECORDED / "hosts" / "amd-apu.json").read_text())
    data["notes"] = [
        "OpRegion header not read: /dev/mem: Permission denied; run xlplug as root in dom0",
        "something else",
    ]
    path = tmp_path / "host.json"
    path.write_text(json.dumps(data))
    host = load_host(str(path))
    assert host.why_unread(OPREGION) == Problem(data["notes"][0])
    assert host.why_unread(VBIOS).what == "its header was not read"
    noted = host._replace(
        notes=(HostNote("0000:00:02.0", Problem("PCI function 0000:00:02.0 cannot be read", "look")),)
    )
    path.write_text(dump_host(noted))
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert load_host(str(path)).notes == noted.notes


def test_serial_numbers_do_not_get_in() -> None:
    config = bytearray(4096)
    config[0x06] = 0x10
    config[0x34] = 0x50
    config[0x50:0x58] = bytes([3, 0x60, 0, 0x80]) + b"SN12"
    config[0x60:0x62] = bytes([5, 0])
    config[0x100:0x10C] = b"\x03\x00\x01\x00SERIAL!!"
    host = HostSnapshot("h", (PciDevice(Bdf(0, 0, 3, 0), 0, 0, 0x020000, config=bytes(config)),))
    text = dump_host(host)
    assert b"SN12".hex() not in text
    assert b"SERIAL".hex() not in text
    assert "03600080" in text


def test_macs_and_passwords_do_not_get_in() -> None:
    data = {
        "b_info": {"type.hvm": {"vnc": {"passwd": "s3cret", "enable": "True"}}},
        "nics": [{"mac": "00:16:3e:1:2:3", "devid": 0}],
    }
    kept = json.loads(scrub_libxl(json.dumps(data).encode() + b"\0"))
    assert kept == {"b_info": {"type.hvm": {"vnc": {"enable": "True"}}}, "nics": [{"devid": 0}]}
    with pytest.raises(HostError, match="not JSON"):
        scrub_libxl(b"{")


def test_what_cannot_be_written_leaves_the_old_recording(tmp_path: Path) -> None:
    recording = DomainRecording(load_host(str(HOSTS[0])), DomainInfo(7), HeldRights(), name="gpu")
    write_domain(recording, str(tmp_path))
    old = (tmp_path / "host.json").read_bytes()
    soft, hard = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(HostError, match=r"host\.json: File too large; give a path that can be written"):
            write_domain(recording._replace(name="other"), str(tmp_path))
    finally:
        setrlimit(RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "host.json").read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["domain.json", "host.json"]


def test_domain_round_trip(tmp_path: Path) -> None:
    recording = DomainRecording(
        host=load_host(str(HOSTS[0])),
        target=DomainInfo(7, paused=True, nr_pages=5, max_pages=6, uuid="u"),
        target_rights=HeldRights(RangeSet([(1, 2)]), RangeSet([(3, 9)])),
        stubdom=DomainInfo(8, hvm=False),
        name="gpu",
        config=b"name='gpu'\n",
    )
    write_domain(recording, str(tmp_path / "new"))
    assert load_domain(str(tmp_path / "new")) == recording
    assert dump_domain(recording) == (tmp_path / "new" / "domain.json").read_text()
    (tmp_path / "new" / "domain.json").write_text("{}")
    with pytest.raises(HostError, match="lacks 'schema'"):
        load_domain(str(tmp_path / "new"))
