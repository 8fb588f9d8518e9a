# SPDX-License-Identifier: LGPL-2.1-only
"""Reads what ``xlplug doctor`` judges of a configuration: its plan, its device model, its stubdomain's images."""

import os
from collections.abc import Callable
from typing import TypeVar

from xlplug.config.domain import DomainConfig
from xlplug.doctor.facts import ConfigFacts
from xlplug.doctor.reading import Broken, Missing, Reading, Skipped, Unread, after, tried
from xlplug.doctor.survey_hook import fits
from xlplug.doctor.survey_xen import XenSide
from xlplug.dom0.find_config import must_read_as_xl, parse, read_as_xl
from xlplug.dom0.kept_ports import kept_ports
from xlplug.hook import create, device_model
from xlplug.model.errors import ConfigError, Refused, XlplugError
from xlplug.model.host import HostSnapshot
from xlplug.plan import Plan

__all__ = ["read"]

T = TypeVar("T")

#: What libxl takes where a configuration names none.  Source: tools/libs/light/libxl_create.c.
_IMAGES = {"kernel": "qemu-stubdom-linux-kernel", "ramdisk": "qemu-stubdom-linux-rootfs"}


def read(path: str, host: Reading[HostSnapshot], xen: XenSide) -> ConfigFacts:
    """Everything about one configuration."""
    config = _of_file(_parsed, path)
    if isinstance(config, Missing):
        return ConfigFacts(path, config)
    plan = after("display", host, lambda host: _rehearsed(config, _with_kept_ports(host, config, xen)))
    hotplug = tried(_hotplug, path)
    kernel, ramdisk = _images(config, xen.version)
    model = _device_model(config, path, xen.version)
    return ConfigFacts(
        path,
        config,
        plan,
        model,
        True if isinstance(plan, Missing) else _sole_vga(plan, xen),
        None if isinstance(hotplug, Missing) else hotplug,
        kernel,
        ramdisk,
        fits(model, xen.version),
    )


def _of_file(call: Callable[..., T], *arguments: object) -> T | Missing:
    """As `tried`; an error says where in the file, whose name is the line's own."""

    def placed() -> T | Missing:
        try:
            return call(*arguments)
        except ConfigError as error:
            return Broken(
                f"line {error.line}: {error.message}" if error.line else error.message, error.hint, error.code
            )

    return tried(placed)


def _parsed(path: str) -> DomainConfig:
    return parse(must_read_as_xl(path), path)


def _with_kept_ports(host: HostSnapshot, config: DomainConfig, xen: XenSide) -> HostSnapshot:
    """The host with what dom0 lacks of the ports that this configuration asks for."""
    if not config.ioports or isinstance(xen.xen, Missing):
        return host
    return host._replace(kept_ports=kept_ports(config.ioports, xen.xen))


def _rehearsed(config: DomainConfig, host: HostSnapshot) -> Plan:
    return create.rehearse(config, host, create.occasion(config, create.found_wrapper() or ""))


def _hotplug(path: str) -> str | None:
    """The ``passthrough`` setting, "" when there is none; None where the configuration is libxl's JSON."""
    from xlplug.config import language

    data = read_as_xl(path) or b""
    return None if data.lstrip()[:1] == b"{" else language.parse(data, path=path).get_string("passthrough") or ""


def _device_model(config: DomainConfig, path: str, version: Reading[tuple[int, int, str]]) -> Reading[str]:
    if isinstance(version, Missing) and not config.device_model_override:
        return Skipped("xen")
    return _of_file(create.device_model, config, path)


def _sole_vga(plan: Plan, xen: XenSide) -> Reading[bool]:
    """Whether another domain has the VGA ranges, as ``xlplug create`` finds out."""
    from xlplug.execute import grants

    if not plan.steps:
        return True
    if isinstance(xen.xen, Missing):
        return after("domain control", xen.xen, lambda _: True)
    if isinstance(xen.store, Missing):
        return after("xenstored", xen.store, lambda _: True)
    try:
        grants.require_sole_vga(plan, xen.xen, xen.store)  # type: ignore[arg-type] # it only looks
    except Refused as error:
        return Broken(*error.refusals[0])
    except XlplugError as error:
        return Unread(*error.problem)
    return True


def _images(
    config: DomainConfig, version: Reading[tuple[int, int, str]]
) -> tuple[Reading[str] | None, Reading[str] | None]:
    """A Linux stubdomain's kernel and ramdisk."""
    if not (config.type == "hvm" and config.stubdom and config.device_model_version == "qemu-xen"):
        return None, None
    folder = after("xen", version, lambda version: device_model.firmware_folder(version[:2]))
    return _image("kernel", config.stubdomain_kernel, folder), _image("ramdisk", config.stubdomain_ramdisk, folder)


def _image(what: str, given: str | None, folder: Reading[str]) -> Reading[str]:
    if given:
        path, advice = os.path.abspath(given), f"install it there, or correct stubdomain_{what}"
    elif isinstance(folder, Missing):
        return folder
    else:
        path = f"{folder}/{_IMAGES[what]}"
        advice = f"install a Linux stubdomain, or name one: stubdomain_{what}="
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return path
    return Broken(f"the stubdomain's {what} {path} is missing or not readable", advice)
