# SPDX-License-Identifier: LGPL-2.1-only
"""A live dom0: opens Xen, xenstore and the host, and finds what belongs to a domain.  No policy."""

from xlplug.config.domain import DomainConfig
from xlplug.config.from_libxl import from_libxl
from xlplug.model.addr import Domid
from xlplug.model.errors import ConfigError, XenUnavailableError
from xlplug.model.hypervisor import DomainInfo, Store

__all__ = [
    "device_model_arguments",
    "domain_config",
    "libxl_json",
    "stubdom_of",
    "target_and_stubdom",
]

#: Source: tools/libs/light/libxl_dom.c, userdata_path.
_USERDATA = "/var/lib/xen"


def stubdom_of(domid: int, store: Store) -> Domid | None:
    """The domain that runs the target's device model, None when that is dom0."""
    text = store.read(f"/local/domain/{domid}/image/device-model-domid")
    return Domid(int(text)) if text and text.isdecimal() and int(text) != 0 else None


def target_and_stubdom(domid: int, store: Store) -> tuple[Domid, Domid | None]:
    """Whom a device model serves: a guest, or a stubdomain and through it the guest that is its target."""
    text = store.read(f"/local/domain/{domid}/target")
    if text and text.isdecimal():
        return Domid(int(text)), Domid(domid)
    return Domid(domid), None


def device_model_arguments(domid: int, store: Store) -> list[str]:
    """The command line that libxl has left for the device model in a guest's stubdomain.

    Source: tools/libs/light/libxl_dm.c, libxl__write_stub_linux_dm_argv and libxl__write_stub_dmargs.
    """
    vm = store.read(f"/local/domain/{domid}/vm") or ""
    base = f"{vm}/image/dm-argv"
    return [store.read(f"{base}/{name}") or "" for name in sorted(store.list(base))] if vm else []


def libxl_json(info: DomainInfo) -> bytes | None:
    """libxl's own record of a domain's configuration, None where there is none yet."""
    try:
        with open(f"{_USERDATA}/userdata-d.{info.domid}.{info.uuid}.libxl-json", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise XenUnavailableError(f"{error.filename}: {error.strerror}", hint="run xlplug as root in dom0") from error


def domain_config(info: DomainInfo) -> DomainConfig:
    """A living domain's configuration, from libxl's record.

    Raises:
        ConfigError: there is none: another toolstack's domain, or one still being built.
    """
    import json

    data = libxl_json(info)
    if data is None:
        raise ConfigError(
            "libxl has kept no configuration of it",
            path=f"domain {info.domid}",
            hint="give the xl config with --config",
        )
    try:
        return from_libxl(json.loads(data.rstrip(b"\0")))
    except ValueError as error:
        raise ConfigError(f"libxl's JSON does not parse ({error})", hint="give the xl config with --config") from error
