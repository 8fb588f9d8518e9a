# SPDX-License-Identifier: LGPL-2.1-only
"""What is fuzzed: everything that is parsed, one small function each, from bytes.

A target raises `AssertionError` where an invariant of its own is broken.  Any exception but ours is a finding as well, and so is
one of ours that cannot be shown as one line on any terminal.
"""

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import shell
from xlplug.abi.elf import find_libraries, read_imports
from xlplug.commands.metrics import collect
from xlplug.config import from_libvirt, xl_command_line
from xlplug.config.delegated import parse_spec, place
from xlplug.config.domain import DomainConfig
from xlplug.config.language import json_value
from xlplug.config.language import parse as parse_settings
from xlplug.config.pci_spec import parse_pci_spec
from xlplug.delegate import record
from xlplug.dom0 import domains, find_config, frozen, handover, pci, recording, savefile, tally
from xlplug.dom0.firmware import read_firmware, read_vbt
from xlplug.execute.compare import compare
from xlplug.execute.journal import Journal
from xlplug.hook.override import overridden
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, XlplugError, one_line, printable
from xlplug.model.firmware_headers import parse_mcfg, parse_opregion, parse_vbios, parse_vbt
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.occasion import STARTING, Who
from xlplug.model.rangeset import RangeSet
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import MemStore, MemXen
from xlplug.xen.qdump import parse_q, parse_servers

__all__ = ["TARGETS", "Target"]

RECORDED = Path(__file__).parents[1] / "recorded"
WHO = Who(Domid(7), Domid(8))


class Target(NamedTuple):
    """A parser: ``allowed`` are the exceptions that it documents, besides ours."""

    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...] = ()
    repeats: bool = True  # whether growth.py may try it: not what has another program or getopt do the work

    def __call__(self, data: bytes) -> None:
        """Any exception from it is a finding."""
        try:
            self.run(data)
        except XlplugError as error:
            shown(str(error))
        except self.allowed:
            pass


def shown(text: str) -> None:
    """It goes to a terminal as one line, with anything in it."""
    line = one_line(text)
    line.encode("utf-8")
    assert line.count("\n") == 1
    assert printable(line[:-1]).isprintable()


def say(plan: Plan) -> Plan:
    """Everything in a plan can be shown."""
    for problem in (*plan.notes, *plan.warnings, *plan.refusals):
        shown(str(problem))
    for step in plan.steps:
        str(step)
        for undo in step.undo():
            str(undo)
    return plan


@cache
def hosts() -> tuple[HostSnapshot, ...]:
    names = ("igd-laptop", "second-card-first", "server-bmc")
    return tuple(recording.load_host(str(RECORDED / "hosts" / f"{name}.json")) for name in names)


@cache
def scratch() -> str:
    """A folder in memory, for what is read from files."""
    return tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def file_of(data: bytes, name: str = "file") -> str:
    path = f"{scratch()}/{name}"
    with open(path, "wb") as file:
        file.write(data)
    return path


def planned(config: DomainConfig) -> None:
    thawed = frozen.thaw(frozen.freeze(config))
    assert thawed == config
    for host in hosts():
        say(build(config, host, WHO if config.stubdom else Who(Domid(7)), STARTING))


# configurations -------------------------------------------------------------------------------------------------------


def config(data: bytes) -> None:
    """xl's language, with words of the command line after a NUL."""
    text, _, words = data.partition(b"\0\0")
    extra = [os.fsdecode(word) for word in words.split(b"\0") if word]
    found = find_config.parse(text, "c", extra)
    planned(found)


def language(data: bytes) -> None:
    """Its settings as JSON."""
    for _, value in parse_settings(data).items():
        json_value(value)


def pci_spec(data: bytes) -> None:
    text = os.fsdecode(data)
    for read in (parse_pci_spec, Bdf.parse, parse_spec):
        try:
            found = read(text)  # type: ignore[operator] # three functions
        except XlplugError as error:
            shown(str(error))
        else:
            if isinstance(found, Bdf):
                assert Bdf.parse(str(found)) == found
            shown(str(found))


def delegated(data: bytes) -> None:
    place([parse_spec(os.fsdecode(part)) for part in data.split(b"\n")], range(5))


def libxl_json(data: bytes) -> None:
    recording.scrub_libxl(b"{" + data)
    found = find_config.parse(b"{" + data, "j")
    planned(found)
    if found.wants_legacy:
        again = find_config.parse(overridden(b"{" + data, "/usr/lib/xlplug/device-model", found), "j")
        assert again.device_model_override == "/usr/lib/xlplug/device-model"


def libvirt_xml(data: bytes) -> None:
    planned(from_libvirt.from_xml(data, "x", gfx_passthru=len(data) % 2 == 1))


def front_end(data: bytes) -> None:
    """hooks/xl against Python: a configuration and, after two NULs, what follows "create"."""
    text, _, words = data.partition(b"\0\0")
    shell.check(text, [os.fsdecode(word) for word in words.split(b"\0")] if words else ["c"], scratch())


def command_line(data: bytes) -> None:
    words = [os.fsdecode(word) for word in data.split(b"\0")]
    xl_command_line.parse_xl(words)
    xl_command_line.parse_create(words)
    xl_command_line.parse_restore(words)
    xl_command_line.is_receive(words)


# recordings -----------------------------------------------------------------------------------------------------------


@cache
def wishes() -> tuple[DomainConfig, ...]:
    base = 'type="hvm"\nname="g"\nmemory=64\nvga="none"\ndevice_model_stubdomain_override=1\ndevice_model_version="qemu-xen"\n'
    texts = (
        'gfx_passthru="igd"\npci=["00:02.0"]\n',
        'ioports=["2f8-2ff","3000"]\npci=["00:02.*","01:00.0"]\nxlplug_map_legacy=1\n',
    )
    return tuple(find_config.parse((base + text).encode(), "") for text in texts)


def host(data: bytes) -> None:
    found = recording.load_host(file_of(data, "host.json"))
    again = recording.load_host(file_of(recording.dump_host(found).encode(), "again.json"))
    cut = tuple(d._replace(config=d.config[:256]) for d in found.devices)
    assert [d._replace(config=b"") for d in again.devices] == [d._replace(config=b"") for d in cut]
    assert again._replace(devices=()) == found._replace(devices=())
    for wish in wishes():
        say(build(wish, found, WHO, STARTING))


def recorded_domain(data: bytes) -> None:
    folder = f"{scratch()}/domain"
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(f"{folder}/host.json"):
        Path(folder, "host.json").write_bytes((RECORDED / "hosts" / "second-card.json").read_bytes())
    Path(folder, "domain.json").write_bytes(data)
    found = recording.load_domain(folder)
    assert recording.dump_domain(found)


# xenstore and sysfs ---------------------------------------------------------------------------------------------------


def xenstore(data: bytes) -> None:
    """Nodes as lines, path=value, below where xlplug reads."""
    store = MemStore()
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:200]:
        path, equals, value = line.partition("=")
        if equals and path.strip("/"):
            store.write("/" + path.strip("/"), value)
    xen = MemXen()
    xen.add_domain(DomainInfo(7, uuid="u"))
    for read in (
        lambda: Journal(store, 7, "u").read(),
        lambda: Journal(store, 7, None).read(),
        lambda: compare(7, xen.held(), store),
        lambda: record.read(store, 7),
        lambda: pci.owners(store),
        lambda: domains.guests(store),
        lambda: domains.stubdom_of(7, store),
        lambda: domains.named("g", store),
        lambda: domains.target_and_stubdom(8, store),
        lambda: domains.device_model_arguments(7, store),
        lambda: list(collect(xen, store, {}, hooked=True)),
    ):
        try:
            read()  # type: ignore[no-untyped-call]
        except XlplugError as error:
            shown(str(error))


FILES = ("vendor", "device", "class", "resource", "config", "boot_vga")


def sysfs(data: bytes) -> None:
    """The files of one function, between NULs of which there are two; then of the host."""
    folder = f"{scratch()}/sys/0000:00:02.0"
    os.makedirs(folder, exist_ok=True)
    parts = data.split(b"\0\0", len(FILES) - 1)
    for name, part in zip(FILES, parts, strict=False):
        Path(folder, name).write_bytes(part)
    found, notes = pci.everything({}, f"{scratch()}/sys")
    for note in notes:
        shown(str(note))
    for wish in wishes():
        say(build(wish, hosts()[0]._replace(devices=found, notes=notes), WHO, STARTING))


def q_dump(data: bytes) -> None:
    """Of Xen's dump only Xen's lines count, also between lines that a guest prints; and it is read as a whole, or not at all."""
    text = data.decode("utf-8", "replace")
    for parse in (parse_q, parse_servers):
        with suppress(ValueError):
            parse(text)
    xen = MemXen()
    xen.add_domain(DomainInfo(7))
    lines = xen.q_text().splitlines()
    guests = [f"(d7) {line}" for line in text.splitlines()[:50]]
    at = len(text) % len(lines)
    assert parse_q("\n".join([*lines[:at], *guests, *lines[at:]])) == xen.held()


def ranges(data: bytes) -> None:
    found = RangeSet.parse(data.decode("utf-8", "replace"))
    assert RangeSet.parse(str(found)) == found
    assert RangeSet.parse(found.text) == found


# files of others ------------------------------------------------------------------------------------------------------


def save_file(data: bytes) -> None:
    head = savefile.parse_head(data)
    assert head is None or bytes(head) == data
    found = savefile.config_in(file_of(data))
    length = savefile.HEADER_SIZE + savefile.optional_length(data)
    assert found == (None if (head := savefile.parse_head(data[:length])) is None else head.config)
    if found is not None:
        find_config.parse(found, "s")


def firmware(data: bytes) -> None:
    """Headers at the place where each is, and all that is concluded from them."""
    laptop = hosts()[0]
    for parse in (
        lambda: parse_opregion(data, 0x7A18D018),
        lambda: parse_vbios(data, 0xC0000),
        lambda: parse_vbt(data),
        lambda: parse_mcfg(data),
    ):
        try:
            found = parse()  # type: ignore[no-untyped-call]
        except XlplugError as error:
            shown(str(error))
            continue
        changed = {"OpRegion": "opregion", "Vbios": "vbios", "tuple": "mmcfg"}.get(type(found).__name__)
        if changed is not None:
            for wish in wishes():
                say(build(wish, laptop._replace(**{changed: found}), WHO, STARTING))


def memory(data: bytes) -> None:
    """The same out of /dev/mem, a sparse file here."""
    laptop = hosts()[0]
    path = f"{scratch()}/mem"
    address = next(d.config_u32(0xFC) for d in laptop.devices if str(d.bdf) == "0000:00:02.0") or 0
    with open(path, "wb") as file:
        file.truncate(1 << 31)
        file.seek(address)
        file.write(data[: 1 << 16])
        file.seek(0xC0000)
        file.write(data[: 1 << 16])
    opregion, vbios, notes = read_firmware(laptop.devices, laptop.memory, path)
    for note in notes:
        shown(str(note))
    changed = laptop._replace(opregion=opregion, vbios=vbios)
    for wish in wishes():
        say(build(wish, changed, WHO, STARTING))
    read_vbt(changed, path)


def elf(data: bytes) -> None:
    path = file_of(data)
    imports = read_imports(path)
    find_libraries(path, imports, (), file_of(data[-512:], "cache"))


def handed_over(data: bytes) -> None:
    """What `peek` finds in another process's descriptor."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        handover._read(fd)
    finally:
        os.close(fd)


def counts(data: bytes) -> None:
    """The file of `xlplug metrics`."""
    found = tally.read(file_of(data))
    text = "".join(collect(MemXen(), MemStore(), found, hooked=False))
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|xlplug_\w+(\{.*\})? \S+", line), line


TARGETS: dict[str, Target] = {
    "config": Target(config),
    "language": Target(language),
    "pci-spec": Target(pci_spec),
    "delegated": Target(delegated),
    "libxl-json": Target(libxl_json),
    "libvirt-xml": Target(libvirt_xml),
    # Python's getopt copies the list for each option; the kernel takes no command line of more than 2 MiB, and it is root's.
    "command-line": Target(command_line, repeats=False),
    "front-end": Target(front_end, (ConfigError,), repeats=False),
    "host": Target(host),
    "domain": Target(recorded_domain),
    "xenstore": Target(xenstore),
    "sysfs": Target(sysfs),
    "q-dump": Target(q_dump),
    "ranges": Target(ranges, (ValueError,)),
    "save-file": Target(save_file),
    "firmware": Target(firmware),
    "memory": Target(memory),
    "elf": Target(elf),
    "handover": Target(handed_over, (ValueError, OSError)),
    "counts": Target(counts),
}
