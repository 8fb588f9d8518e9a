# SPDX-License-Identifier: LGPL-2.1-only
"""Where a domain's configuration comes from: a file, a handover, libvirt, or the ``xl create`` that is making it."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from xlplug.config.domain import DomainConfig
from xlplug.dom0.files import open_regular, read_all
from xlplug.model.errors import ConfigError

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.dom0.handover import Handover

__all__ = ["Found", "being_created", "from_handover", "must_read_as_xl", "parse", "read_as_xl"]

_LIBVIRT_FOLDERS = ("/run/libvirt/libxl", "/etc/libvirt/libxl")  # running, defined
_SLACK = 1.0  # seconds by which a file may seem newer than the xl that read it: the two clocks differ in precision


class Found(NamedTuple):
    """A configuration; ``hooked``: our wrapper has been given it too."""

    config: DomainConfig
    hooked: bool = False


def parse(data: bytes, path: str, extra: Sequence[str] = ()) -> DomainConfig:
    """A configuration in either form: xl's language, or libxl's JSON (which begins with a brace).

    Raises:
        ConfigError: xl would not accept it either.
    """
    if data.lstrip()[:1] == b"{":
        from xlplug.config.from_libxl import from_libxl
        from xlplug.model import lean_json

        try:
            value = lean_json.loads(data.rstrip(b"\0"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"neither an xl config nor JSON ({error})",
                path=path,
                hint="give the path of an xl config",
                code="XLP202",
            ) from error
        return from_libxl(value, path=path)
    from xlplug.config import language
    from xlplug.config.from_xl import from_settings

    return from_settings(language.parse(data, path=path, extra=extra))


def read_as_xl(path: str) -> bytes | None:
    """A config file's bytes, None where xl cannot read it either: it takes regular files only, and /dev/null as empty.

    Source: tools/libs/light/libxl_utils.c, libxl_read_file_contents; tools/xl/xl_vmcontrol.c, create_domain.

    Raises:
        ConfigError: it is too large.
    """
    if path == "/dev/null":
        return b""
    try:
        file = open_regular(path)
        if file is None:
            return None
        with file:
            return read_all(file, path)
    except OSError:
        return None


def must_read_as_xl(path: str) -> bytes:
    """The same, where it must be readable.

    Raises:
        ConfigError: xl cannot read it either; or it is too large.
    """
    data = read_as_xl(path)
    if data is not None:
        return data
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
        why = "not a regular file, and xl reads no other"
    except OSError as error:
        why = error.strerror or "cannot be read"
    raise ConfigError(why, path=path, hint="give the path of an xl config", code="XLP201")


def from_handover(handover: "Handover") -> DomainConfig:
    """The configuration that ``xlplug create`` has read."""
    from xlplug.dom0 import frozen

    return frozen.thaw(handover.parsed) or parse(handover.data, handover.path, handover.extra)


def being_created(name: str, uuid: str, *, igd: bool) -> Found | None:
    """The configuration of a domain that libxl is still building, so that it has no record of it yet.

    Raises:
        ConfigError: the file has been changed since xl read it, or does not parse.
    """
    from xlplug.config import from_libvirt
    from xlplug.dom0 import handover, running_xl

    xml = libvirt_definition(name, uuid)
    if xml is not None:
        return Found(from_libvirt.from_xml(*xml, gfx_passthru=igd))
    for creator in running_xl.creators():
        offered = handover.peek(creator.pid)
        if offered is not None:
            if not running_xl.remains(creator):
                continue
            config = from_handover(offered)
            if config.name == name:
                return Found(config, hooked=True)
            continue
        try:
            data = read_as_xl(creator.config)
            if data is None:
                continue
            config = parse(data, creator.config, creator.create.extra)
        except ConfigError:
            continue  # another domain's: xl has accepted this one's
        if config.name != name or not running_xl.remains(creator):
            continue
        if creator.config == "/dev/null":
            return Found(config)
        if _modified(creator.config) > creator.started + _SLACK:
            raise ConfigError(
                "changed since xl read it",
                path=creator.config,
                hint=f"destroy {name} and create it again",
                code="XLP208",
            )
        if running_xl.reads(creator):
            return Found(config)
    return None


def _modified(path: str) -> float:
    """When the file was last changed, in seconds since the epoch; just now where it is gone.

    Anybody who can write a file can set its mtime, so ctime counts too: the kernel alone sets that.  A symbolic link may have
    led elsewhere; those in /proc are as old as the look at them.
    """
    try:
        found = os.stat(path)
        link = found if path.startswith("/proc/") else os.lstat(path)
        return max(found.st_mtime, found.st_ctime, link.st_ctime)
    except OSError:
        return float("inf")


def libvirt_definition(name: str, uuid: str, folders: tuple[str, ...] = _LIBVIRT_FOLDERS) -> tuple[bytes, str] | None:
    """The XML of the domain, and its path; None where libvirt has none with this name and uuid."""
    if not name or "/" in name or name.startswith("."):
        return None
    for folder in folders:
        path = f"{folder}/{name}.xml"
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            continue
        if f"<uuid>{uuid}</uuid>".encode() in data:
            return data, path
    return None
