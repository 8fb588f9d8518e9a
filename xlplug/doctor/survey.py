# SPDX-License-Identifier: LGPL-2.1-only
"""Reads everything that ``xlplug doctor`` judges: a dom0, its hook, and configurations.  Policy is in checks.py.

Nothing is changed, and nothing that fails keeps the rest from being read: each reading is a value, `Broken` or `Unread`.
Where things are, and how Xen is opened, is passed in, so that tests have a dom0 of files.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeVar

from xlplug.config.domain import DomainConfig
from xlplug.doctor.facts import ConfigFacts, Facts, Firmware, Named
from xlplug.doctor.reading import Broken, Reading, Unread, because, flat, message_of, tried
from xlplug.doctor.survey_config import _image, _parsed, _rehearsed, _tried_hotplug
from xlplug.doctor.survey_hook import find_watcher, fits, read_hook
from xlplug.doctor.survey_xenstored import xenstored_answer
from xlplug.dom0 import firmware, pci
from xlplug.hook import create, device_model
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, Refused, XlplugError
from xlplug.model.host import HostSnapshot, MemRegion, PciDevice, XenInfo
from xlplug.model.hypervisor import DomainInfo, HeldRights, Store
from xlplug.plan import Plan

__all__ = ["LIVE", "Doors", "Places", "survey"]

T = TypeVar("T")

_ARBITER_BYTES = 1024


class Places(NamedTuple):
    """Where things are on a dom0."""

    sys_hypervisor: str = "/sys/hypervisor"
    capabilities: str = "/proc/xen/capabilities"
    proc: str = "/proc"
    dev: str = "/dev"
    store_socket: str = "/run/xenstored/socket"
    sys_pci: str = pci.SYS_PCI
    pciback: str = "/sys/bus/pci/drivers/pciback"
    prefix: str = "/usr/local"


class OpenXen(Protocol):
    """What is read of the hypervisor."""

    def domains(self) -> list[DomainInfo]: ...
    def domain_info(self, domid: int) -> DomainInfo | None: ...
    def machine_memory_map(self) -> tuple[MemRegion, ...]: ...
    def held(self) -> dict[int, HeldRights]: ...
    def directio(self) -> bool | None: ...


class Doors(NamedTuple):
    """How things are opened: Xen, with its proof by a domctl; xenstored, once it is known to answer; libraries."""

    xen: Callable[[], AbstractContextManager[OpenXen]]
    store: Callable[[], AbstractContextManager[Store]]
    ctrl: Callable[[int, int], object]
    stable: Callable[[str], object]
    euid: Callable[[], int] = os.geteuid


def _open_xen() -> AbstractContextManager[OpenXen]:
    from xlplug.xen.ctrl import XenCtrl

    return XenCtrl()


def _open_store() -> AbstractContextManager[Store]:
    from xlplug.xen.store import XenStore

    return XenStore()


def _load_ctrl(major: int, minor: int) -> object:
    from xlplug.xen.lib import load_ctrl

    return load_ctrl(major, minor)


def _load_stable(name: str) -> object:
    from xlplug.xen.lib import load_stable

    return load_stable(name)


#: Imported when they are used: without cffi there is still much to tell.
LIVE = Doors(_open_xen, _open_store, _load_ctrl, _load_stable)


def survey(configs: Sequence[str] = (), places: Places | None = None, doors: Doors = LIVE) -> Facts:
    """Look at everything once."""
    with contextlib.ExitStack() as stack:
        return _Survey(places or Places(), doors, stack).facts(configs)


class _Survey:
    """One look at a dom0.  ``blocked`` is why nothing of Xen can be tried, None when it can."""

    def __init__(self, places: Places, doors: Doors, stack: contextlib.ExitStack) -> None:
        self.places = places
        self.doors = doors
        self.stack = stack
        self.euid = doors.euid()
        self.version: Reading[tuple[int, int, str]] = flat(tried(self._version))
        self.control = self._control()
        self.blocked = self._blocked()
        self.library = self._ctrl_library()
        self.xen = self._open_xen()
        self.answer: Reading[str] = self.blocked or xenstored_answer(doors.store)
        self.store: Reading[Store] = (
            Unread("xenstored does not answer")
            if isinstance(self.answer, Unread | Broken)
            else tried(self._open, doors.store)
        )

    def _open(self, door: Callable[[], AbstractContextManager[T]]) -> T:
        return self.stack.enter_context(door())

    def _open_xen(self) -> Reading[OpenXen]:
        if self.blocked:
            return self.blocked
        if isinstance(self.library, Unread | Broken):
            return Unread("without its library Xen cannot be asked")
        return tried(self._open, self.doors.xen)

    def _version(self) -> Reading[tuple[int, int, str]]:
        from xlplug.xen.lib import running_version

        found = tried(running_version, self.places.sys_hypervisor)
        if isinstance(found, Broken):  # a recording is no help here
            return found._replace(advice=found.advice.removesuffix(", or use --recorded"))
        return found

    def _control(self) -> Reading[bool]:
        if isinstance(self.version, Unread | Broken):
            return self._no_xen()
        try:
            with open(self.places.capabilities, encoding="ascii", errors="replace") as file:
                return "control_d" in file.read()
        except OSError as error:
            return Broken(f"{self.places.capabilities}: {error.strerror}", "mount it: mount -t xenfs xenfs /proc/xen")

    def _no_xen(self) -> Unread:
        """Why nothing of Xen can be told, where its version cannot."""
        return Unread("no Xen runs here" if isinstance(self.version, Broken) else "Xen's version is not known")

    def _blocked(self) -> Unread | None:
        if isinstance(self.version, Unread | Broken):
            return self._no_xen()
        if self.euid != 0:
            return Unread("only root can try it", "run it with sudo")
        if self.control is not True:
            return Unread("not seen to be in dom0")
        return None

    def facts(self, paths: Sequence[str]) -> Facts:
        known = None if isinstance(self.version, Unread | Broken) else self.version
        owned = self._owned()
        devices, damaged = self._devices(owned)
        memory = self._memory()
        host = self._host(devices, memory)
        return Facts(
            euid=self.euid,
            python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
            modules=_modules(),
            version=known[:2] if known else self.version,  # type: ignore[arg-type] # then it is no tuple
            version_text=known[2] if known else "",
            control=self.control,
            nodes=self._nodes(),
            library=self.library,
            domctl=self.xen
            if isinstance(self.xen, Unread | Broken)
            else tried(lambda xen: len(xen.domains()), self.xen),
            libraries=tuple(
                Named(f"lib{name}", self._stable_library(name)) for name in ("xenstore", "xendevicemodel", "xentoollog")
            ),
            store=self.answer,
            directio=self._directio(),
            assignable=self._assignable(),
            devices=devices,
            damaged=damaged,
            arbiter=tried(_first_bytes, f"{self.places.dev}/vga_arbiter"),
            dev_mem=self._dev_mem(),
            firmware=self._firmware(host, memory),
            hook=tried(lambda: read_hook(self.places.prefix, known[2] if known else "")),
            watcher=tried(find_watcher, self.places.proc),
            configs=tuple(self._config(path, host) for path in paths),
        )

    # Xen

    def _nodes(self) -> tuple[Named, ...]:
        door, bus, socket = f"{self.places.dev}/xen/privcmd", f"{self.places.dev}/xen/xenbus", self.places.store_socket
        nodes = (
            Named("privcmd", self._usable((door,), "modprobe xen-privcmd")),
            Named("xenbus", self._usable((socket, bus), "start it: systemctl start xenstored")),
        )
        return tuple(Named(n.name, self._no_xen()) for n in nodes) if not self._on_xen() else nodes

    def _on_xen(self) -> bool:
        return not isinstance(self.version, Unread | Broken)

    def _usable(self, paths: tuple[str, ...], advice: str) -> Reading[str]:
        """The first of them that is there, when it may be read and written."""
        path = next((path for path in paths if os.path.exists(path)), None)
        if path is None:
            missing = f"neither {paths[0]} nor {paths[1]} is there" if len(paths) > 1 else f"{paths[0]} is missing"
            return Broken(missing, advice)
        if os.access(path, os.R_OK | os.W_OK):
            return path
        if self.euid != 0:
            return Unread(f"{path} is root's", "run it with sudo")
        return Broken(f"{path} cannot be read and written", "look at its mode")

    def _ctrl_library(self) -> Reading[str]:
        if isinstance(self.version, Unread | Broken):
            return self._no_xen()
        major, minor, _ = self.version
        found = tried(self.doors.ctrl, major, minor)
        return found if isinstance(found, Unread | Broken) else f"libxenctrl.so.{major}.{minor} has every call"

    def _stable_library(self, name: str) -> Reading[str]:
        found = tried(self.doors.stable, name)
        return found if isinstance(found, Unread | Broken) else "loads"

    def _directio(self) -> Reading[bool]:
        if isinstance(self.xen, Unread | Broken):
            return because(self.xen)
        found = tried(self.xen.directio)
        if found is None:
            return Unread("this Xen's xc_physinfo is not as this xlplug knows it", "see virt_caps in 'xl info'")
        return found

    def _memory(self) -> Reading[tuple[MemRegion, ...]]:
        return because(self.xen) if isinstance(self.xen, Unread | Broken) else tried(self.xen.machine_memory_map)

    # PCI

    def _owned(self) -> dict[Bdf, Domid]:
        found = None if isinstance(self.store, Unread | Broken) else tried(pci.owners, self.store)
        return {} if found is None or isinstance(found, Unread | Broken) else found

    def _devices(self, owned: dict[Bdf, Domid]) -> tuple[Reading[tuple[PciDevice, ...]], tuple[str, ...]]:
        """Every function, and one sentence for each that cannot be read."""
        names = tried(os.listdir, self.places.sys_pci)
        if isinstance(names, Unread | Broken):
            return names, ()
        found, damaged = [], []
        for name in sorted(names):
            device = tried(pci.function, f"{self.places.sys_pci}/{name}", owned)
            if isinstance(device, Unread | Broken):
                damaged.append(f"{name}: {device.why}")
            elif device is not None:
                found.append(device)
        return tuple(sorted(found, key=lambda device: device.bdf)), tuple(damaged)

    def _assignable(self) -> Reading[tuple[Bdf, ...]]:
        try:
            names = os.listdir(self.places.pciback)
        except FileNotFoundError:
            return Broken(
                "the xen-pciback driver is not loaded, so that no device is assignable", "modprobe xen-pciback"
            )
        except OSError as error:
            return Unread(f"{self.places.pciback}: {error.strerror}")
        found = []
        for name in names:
            with contextlib.suppress(ConfigError):  # the driver's own files
                found.append(Bdf.parse(name))
        return tuple(sorted(found))

    def _dev_mem(self) -> Reading[str]:
        path = f"{self.places.dev}/mem"
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return Broken(f"{path} is missing", "boot a dom0 kernel with CONFIG_DEVMEM")
        except OSError as error:
            if self.euid != 0:
                return Unread(f"{path}: {error.strerror}", "run it with sudo")
            return Broken(f"{path}: {error.strerror}", "boot dom0 without kernel lockdown (see kernel_lockdown(7))")
        return path

    def _firmware(self, host: Reading[HostSnapshot], memory: Reading[tuple[MemRegion, ...]]) -> Reading[Firmware]:
        if isinstance(memory, Unread | Broken):
            why = memory.why if isinstance(memory, Unread) else "Xen refuses it"
            return Unread(f"the machine's memory map was not read: {why}")
        if isinstance(host, Unread | Broken):
            return host
        read = []
        if host.opregion is not None:
            region = host.opregion
            read.append(
                f"OpRegion at {region.maddr:#x}, version {region.version >> 8}.{region.version & 0xFF}, {region.size >> 10} KiB"
            )
        if host.vbios is not None:
            rom = host.vbios
            read.append(f"VBIOS shadow at {rom.maddr:#x}, {rom.size} bytes, of {rom.vendor:04x}:{rom.device:04x}")
        return Firmware(tuple(read), tuple(note.problem for note in host.notes))

    def _host(
        self, devices: Reading[tuple[PciDevice, ...]], memory: Reading[tuple[MemRegion, ...]]
    ) -> Reading[HostSnapshot]:
        """What plans are made with."""
        if isinstance(devices, Unread | Broken):
            return Unread("the host's PCI functions were not read")
        regions = () if isinstance(memory, Unread | Broken) else memory
        opregion, vbios, notes = firmware.read_firmware(devices, regions, f"{self.places.dev}/mem")
        info = None
        if not isinstance(self.version, Unread | Broken):
            major, minor, text = self.version
            info = XenInfo((major, minor), text)
        return HostSnapshot(os.uname().nodename, devices, regions, opregion, vbios, info, notes=notes)

    # configurations

    def _config(self, path: str, host: Reading[HostSnapshot]) -> ConfigFacts:
        config = tried(_parsed, path)
        if isinstance(config, Unread | Broken):
            config = config._replace(why=config.why.removeprefix(f"{path}: "))  # it is the line's name
            return ConfigFacts(path, config)
        plan = because(host) if isinstance(host, Unread | Broken) else tried(_rehearsed, config, host)
        images: tuple[Reading[str] | None, Reading[str] | None] = (None, None)
        if config.type == "hvm" and config.stubdom and config.device_model_version == "qemu-xen":
            images = self._stubdom_images(config)
        model = self._device_model(config, path)
        return ConfigFacts(
            path,
            config,
            plan,
            model,
            True if isinstance(plan, Unread | Broken) else self._sole_vga(plan),
            _tried_hotplug(path),
            *images,
            fits(model, "" if isinstance(self.version, Unread | Broken) else self.version[2]),
        )

    def _device_model(self, config: DomainConfig, path: str) -> Reading[str]:
        if isinstance(self.version, Unread | Broken) and not config.device_model_override:
            return self._no_xen()
        return tried(create.device_model, config, path)

    def _sole_vga(self, plan: Plan) -> Reading[bool]:
        """Asks for Xen's ``q`` dump, as ``xlplug create`` does, when the plan needs to know."""
        from xlplug.execute import grants

        if not plan.steps:
            return True
        if isinstance(self.xen, Unread | Broken):
            return because(self.xen)
        xen = self.xen
        try:
            grants.require_sole_vga(plan, xen, xen.held())  # type: ignore[arg-type] # it only looks
        except Refused as error:
            return Broken(*error.refusals[0])
        except XlplugError as error:
            return Unread(message_of(error), error.hint)
        return True

    def _stubdom_images(self, config: DomainConfig) -> tuple[Reading[str], Reading[str]]:
        folder: Reading[str] = self._no_xen()
        if not isinstance(self.version, Unread | Broken):
            folder = tried(device_model.firmware_folder, self.version[:2])
        return (
            _image("kernel", config.stubdomain_kernel, folder),
            _image("ramdisk", config.stubdomain_ramdisk, folder),
        )


# Python's modules -----------------------------------------------------------------------------------------------------


def _modules() -> tuple[Named, ...]:
    return (
        Named("cffi", _module("cffi", "xlplug.xen._ffi")),
        Named("pyudev", _module("pyudev", "xlplug.dom0.udev")),
        Named("click", _module("click", "xlplug.commands.cli")),
    )


def _module(name: str, user: str) -> Reading[str]:
    """The version of a module, once the module of ours that uses it has been imported."""
    import importlib
    from importlib import metadata

    try:
        importlib.import_module(user)
    except ImportError as error:
        return Broken(f"Python's {name} cannot be loaded: {error}", f"install it (Debian: python3-{name})")
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name}, of a version that it does not tell"


# xenstored ------------------------------------------------------------------------------------------------------------


def _first_bytes(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, _ARBITER_BYTES).decode("ascii", "replace").partition("\n")[0]  # it repeats itself for ever
    finally:
        os.close(fd)


# the hook -------------------------------------------------------------------------------------------------------------
