# SPDX-License-Identifier: LGPL-2.1-only
"""Reads what ``xlplug doctor`` judges of a configuration: its plan, its device model, its stubdomain's images."""

import os

from xlplug.config.domain import DomainConfig
from xlplug.doctor.reading import Broken, Reading, Unread
from xlplug.dom0.find_config import parse, read_as_xl
from xlplug.hook import create
from xlplug.model.errors import ConfigError
from xlplug.model.host import HostSnapshot
from xlplug.plan import Plan

#: What libxl takes where a configuration names none.  Source: tools/libs/light/libxl_create.c.
_IMAGES = {"kernel": "qemu-stubdom-linux-kernel", "ramdisk": "qemu-stubdom-linux-rootfs"}


def _image(what: str, given: str | None, folder: Reading[str]) -> Reading[str]:
    if given:
        path, advice = os.path.abspath(given), f"install it there, or correct stubdomain_{what}"
    elif isinstance(folder, Unread | Broken):
        return folder
    else:
        path = f"{folder}/{_IMAGES[what]}"
        advice = f"install a Linux stubdomain, or name one: stubdomain_{what}="
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return path
    return Broken(f"the stubdomain's {what} {path} is missing or not readable", advice)


def _parsed(path: str) -> DomainConfig:
    data = read_as_xl(path)
    if data is None:
        raise ConfigError("cannot be read", path=path, hint="give the path of an xl config")
    return parse(data, path)


def _rehearsed(config: DomainConfig, host: HostSnapshot) -> Plan:
    return create.rehearse(config, host, create.occasion(config, create.found_wrapper() or ""))


def _tried_hotplug(path: str) -> str | None:
    """The ``passthrough`` setting, "" when there is none; None where the configuration is libxl's JSON."""
    from xlplug.config import language

    data = read_as_xl(path) or b""
    return None if data.lstrip()[:1] == b"{" else language.parse(data, path=path).get_string("passthrough") or ""
