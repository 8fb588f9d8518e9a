# SPDX-License-Identifier: LGPL-2.1-only
"""Where a domain's configuration comes from: a file, a handover, libvirt, or the ``xl create`` that is making it."""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from xlplug.domcfg import DomainConfig, from_libxl, from_settings
from xlplug.errors import ConfigError

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.handover import Handover

__all__ = ["MAX_BYTES", "Found", "being_created", "from_handover", "parse", "read_as_xl"]

MAX_BYTES = 64 << 20
_SLACK = 1.0  # seconds by which a file may seem newer than the xl that read it: clocks of different precision


class Found(NamedTuple):
    """A configuration and where it is from; ``hooked``: our wrapper has been given it too."""

    config: DomainConfig
    whence: str
    hooked: bool = False


def parse(data: bytes, path: str, extra: Sequence[str] = ()) -> DomainConfig:
    """A configuration in either form: xl's language, or libxl's JSON (which begins with a brace).

    Raises:
        ConfigError: xl would not accept it either.
    """
    if data.lstrip()[:1] == b"{":
        import json

        try:
            value = json.loads(data.rstrip(b"\0"))
        except ValueError as error:
            raise ConfigError(f"neither an xl config nor JSON ({error})", path=path) from error
        return from_libxl(value, path=path)
    from xlplug import xlcfg

    return from_settings(xlcfg.parse(data, path=path, extra=extra), path=path)


def read_as_xl(path: str) -> bytes | None:
    """A config file's bytes, None where xl cannot read it either: it takes plain files only, and /dev/null as empty.

    Source: tools/libs/light/libxl_utils.c, libxl_read_file_contents; tools/xl/xl_vmcontrol.c, create_domain.
    """
    if path == "/dev/null":
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None


def from_handover(handover: "Handover") -> DomainConfig:
    """The configuration that ``xlplug create`` has read."""
    return parse(handover.data, handover.path, handover.extra)


def being_created(name: str, uuid: str, *, igd: bool) -> Found | None:
    """The configuration of a domain that libxl is still building, so that it has no record of it yet.

    Raises:
        ConfigError: the file has been changed since xl read it, or does not parse.
    """
    from xlplug import handover, libvirt, procs

    xml = libvirt.find(name, uuid)
    if xml is not None:
        return Found(libvirt.from_xml(*xml, gfx_passthru=igd), xml[1])
    for creator in procs.creators():
        offered = handover.peek(creator.pid)
        if offered is not None:
            config = from_handover(offered)
            if config.name == name:
                return Found(config, offered.path, hooked=True)
            continue
        data = read_as_xl(creator.config)
        if data is None:
            continue
        try:
            config = parse(data, creator.config, creator.create.extra)
        except ConfigError:
            continue  # that of another domain: xl has accepted this one's
        if config.name != name:
            continue
        if creator.config != "/dev/null" and os.stat(creator.config).st_mtime > creator.started + _SLACK:
            raise ConfigError(
                "changed since xl read it", path=creator.config, hint=f"destroy {name} and create it again"
            )
        return Found(config, creator.config)
    return None
