# SPDX-License-Identifier: LGPL-2.1-only
"""Finds what belongs to a domain in xenstore and among libxl's files.  No policy."""

from xlplug.config.domain import DomainConfig
from xlplug.dom0 import nodes
from xlplug.model.addr import Domid
from xlplug.model.errors import ConfigError, XenUnavailableError
from xlplug.model.hypervisor import DomainInfo, Store

__all__ = [
    "device_model_arguments",
    "domain_config",
    "guests",
    "libxl_json",
    "named",
    "stubdom_of",
    "target_and_stubdom",
]

#: Source: tools/libs/light/libxl_dom.c, userdata_path.
_USERDATA = "/var/lib/xen"


def stubdom_of(domid: int, store: Store) -> Domid | None:
    """The domain that runs the target's device model, None when that is dom0.

    It must name the target as its own: after a stubdomain has died its number may belong to somebody else's guest.  While
    libxl is between the two writes (libxl_dm.c, libxl__spawn_stub_dm) it counts as not there yet.
    """
    stubdom = nodes.domid_in(store.read(nodes.device_model_domid(domid)))
    if not stubdom or nodes.domid_in(store.read(nodes.target(stubdom))) != domid:
        return None
    return stubdom


def named(name: str, store: Store) -> Domid | None:
    """The domain of that name, the one with the lowest number of several; None where there is none, or the name is empty."""
    if not name:
        return None
    numbers = [nodes.domid_in(each) for each in store.list(nodes.DOMAINS)]
    present = sorted(number for number in numbers if number is not None)
    return next((domid for domid in present if store.read(nodes.name(domid)) == name), None)


def guests(store: Store) -> list[tuple[Domid, str]]:
    """Number and name of every domain but dom0 and stubdomains, in the order of their numbers."""
    numbers = [nodes.domid_in(each) for each in store.list(nodes.DOMAINS)]
    found = sorted(number for number in numbers if number)
    return [(domid, store.read(nodes.name(domid)) or "") for domid in found if not store.read(nodes.target(domid))]


def target_and_stubdom(domid: int, store: Store) -> tuple[Domid, Domid | None]:
    """The guest that a device model serves, and the stubdomain that it runs in; ``domid`` is either of them."""
    target = nodes.domid_in(store.read(nodes.target(domid)))
    return (domid, None) if target is None else (target, domid)


def device_model_arguments(domid: int, store: Store) -> list[str]:
    """The command line that libxl has left for the device model in a guest's stubdomain.

    Source: tools/libs/light/libxl_dm.c, libxl__write_stub_linux_dm_argv and libxl__write_stub_dmargs.
    """
    vm = store.read(nodes.vm(domid)) or ""
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
        raise XenUnavailableError(
            f"{error.filename}: {error.strerror}", hint="run xlplug as root in dom0", code="XLP106"
        ) from error


def domain_config(info: DomainInfo) -> DomainConfig:
    """A living domain's configuration, from libxl's record.

    Raises:
        ConfigError: there is none: another toolstack's domain, or one still being built.
    """
    from xlplug.config.from_libxl import from_libxl
    from xlplug.model import lean_json

    data = libxl_json(info)
    if data is None:
        raise ConfigError(
            "libxl has kept no configuration of it",
            path=f"domain {info.domid}",
            hint=f"give its xl config: xlplug grant {info.domid} --config FILE",
            code="XLP206",
        )
    try:
        value = lean_json.loads(data.rstrip(b"\0"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"libxl's JSON does not parse ({error})",
            path=f"domain {info.domid}",
            hint="give the domain's xl config",
            code="XLP204",
        ) from error
    return from_libxl(value, path=f"domain {info.domid}")
