# SPDX-License-Identifier: LGPL-2.1-only
"""A live dom0: opens Xen, xenstore and the host, and finds what belongs to a domain.  No policy."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from xlplug.config.domain import DomainConfig, from_libxl
from xlplug.model.addr import Domid
from xlplug.model.errors import ConfigError, HostError, XenUnavailableError, XlplugError
from xlplug.model.host import HostSnapshot, MemRegion, XenInfo
from xlplug.model.hypervisor import DomainInfo, Store
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.lib import running_capabilities

__all__ = [
    "device_model_arguments",
    "domain_config",
    "libxl_json",
    "locked",
    "snapshot",
    "stubdom_of",
    "target_and_stubdom",
]

#: Source: tools/libs/light/libxl_dom.c, userdata_path.
_USERDATA = "/var/lib/xen"
_LOCK = "/run/lock/xlplug.lock"


@contextmanager
def locked() -> Iterator[None]:
    """One xlplug at a time changes this host's domains; a second one waits."""
    import fcntl

    try:
        fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"{_LOCK}: {error.strerror}", hint="is /run/lock there and writable?") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def snapshot(xen: "XenCtrl | None", store: Store | None, config: DomainConfig | None = None) -> HostSnapshot:
    """This host, as far as it can be read; ``notes`` say what could not.

    With a ``config`` only the functions that it assigns are read, which is quick and all that its plan looks at.
    """
    from xlplug.dom0 import firmware, pci

    notes: list[str] = []
    memory: tuple[MemRegion, ...] = ()
    info: XenInfo | None = None
    if xen is None:
        notes.append("the machine's memory map was not read: no Xen")
    else:
        info = XenInfo(xen.version, xen.version_text, running_capabilities())
        try:
            memory = xen.machine_memory_map()
        except XlplugError as error:
            notes.append(f"the machine's memory map was not read: {error}")
    owned = pci.owners(store) if store is not None else None
    if config is not None:
        devices = pci.functions(tuple((e.bdf, e.all_functions) for e in config.pci if e.bdf is not None), owned)
    else:
        from xlplug.dom0 import udev

        devices = udev.devices(owned)
    opregion, vbios, firmware_notes = firmware.read_firmware(devices, memory)
    return HostSnapshot(
        name=os.uname().nodename,
        devices=devices,
        memory=memory,
        opregion=opregion,
        vbios=vbios,
        xen=info,
        libraries=_libraries() if config is None else (),
        notes=(*notes, *firmware_notes),
        provenance="recorded by xlplug on the host itself",
    )


def _libraries() -> tuple[tuple[str, str], ...]:
    """Xen's libraries by soname, where they lie."""
    found: dict[str, str] = {}
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if name.startswith(("libxenctrl.so.", "libxenstore.so.", "libxendevicemodel.so.", "libxentoollog.so.")):
                found.setdefault(name, f"{folder}/{name}")
    return tuple(sorted(found.items()))


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
