# SPDX-License-Identifier: LGPL-2.1-only
"""Reads everything that ``xlplug doctor`` judges: a dom0, its hook, and configurations.  Policy is in checks.py.

Nothing is changed, and nothing that fails keeps the rest from being read: each reading is a value, `Broken` or `Unread`.
Where things are, and how Xen is opened, is passed in, so that tests have a dom0 of files.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeVar

from xlplug.abi import elf
from xlplug.config.domain import DomainConfig
from xlplug.doctor.facts import (
    Broken,
    ConfigFacts,
    Facts,
    Firmware,
    Hook,
    InstalledFile,
    Named,
    Reading,
    Unread,
    Wrapper,
)
from xlplug.dom0 import firmware, pci
from xlplug.dom0.find_config import parse, read_as_xl
from xlplug.hook import create, device_model, install
from xlplug.model.addr import Domid
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, HostError, Refused, XlplugError
from xlplug.model.host import HostSnapshot, MemRegion, PciDevice, XenInfo
from xlplug.model.hypervisor import DomainInfo, HeldRights, Store
from xlplug.plan import Plan

__all__ = ["LIVE", "Doors", "Places", "survey"]

T = TypeVar("T")

#: Written by xen-init-dom0 when xenstored has started.  Source: tools/helpers/init-dom0.c, xen-init-dom0.c.
_KNOWN_KEY = "/local/domain/0/domid"
_STORE_SECONDS = 5.0  # with no daemon behind it, /dev/xen/xenbus answers never
_WRAPPER_SECONDS = 30.0  # Python's start and imports, on an emulated machine
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


def _tried(call: Callable[..., T], *arguments: object) -> T | Unread | Broken:
    """What a call gives.  Our own errors say that something is wrong; any other, that it could not be read."""
    try:
        return call(*arguments)
    except XlplugError as error:
        return Broken(_message(error), error.hint)
    except OSError as error:
        return Unread(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except ImportError as error:
        return Unread(f"without a Python module: {error}")
    except Exception as error:  # noqa: BLE001 - one damaged fact must not take the report away
        return Unread(f"{type(error).__name__}: {error}", "report this as a bug of xlplug")


def _flat(reading: Reading[Reading[T]]) -> Reading[T]:
    """mypy's view of a reading that itself may have failed: the same value."""
    return reading


def _message(error: XlplugError) -> str:
    """The error's sentence without its hint."""
    text = str(error)
    return text.removesuffix(f"; {error.hint}") if error.hint else text


class _Survey:
    """One look at a dom0.  ``blocked`` is why nothing of Xen can be tried, None when it can."""

    def __init__(self, places: Places, doors: Doors, stack: contextlib.ExitStack) -> None:
        self.places = places
        self.doors = doors
        self.stack = stack
        self.euid = doors.euid()
        self.version: Reading[tuple[int, int, str]] = _flat(_tried(self._version))
        self.control = self._control()
        self.blocked = self._blocked()
        self.library = self._ctrl_library()
        self.xen = self._open_xen()
        self.answer: Reading[str] = self.blocked or _answer(doors.store)
        self.store: Reading[Store] = (
            Unread("xenstored does not answer")
            if isinstance(self.answer, Unread | Broken)
            else _tried(self._open, doors.store)
        )

    def _open(self, door: Callable[[], AbstractContextManager[T]]) -> T:
        return self.stack.enter_context(door())

    def _open_xen(self) -> Reading[OpenXen]:
        if self.blocked:
            return self.blocked
        if isinstance(self.library, Unread | Broken):
            return Unread("without its library Xen cannot be asked")
        return _tried(self._open, self.doors.xen)

    def _version(self) -> Reading[tuple[int, int, str]]:
        from xlplug.xen.lib import running_version

        found = _tried(running_version, self.places.sys_hypervisor)
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
            else _tried(lambda xen: len(xen.domains()), self.xen),
            libraries=tuple(
                Named(f"lib{name}", self._stable_library(name)) for name in ("xenstore", "xendevicemodel", "xentoollog")
            ),
            store=self.answer,
            directio=self._directio(),
            assignable=self._assignable(),
            devices=devices,
            damaged=damaged,
            arbiter=_tried(_first_bytes, f"{self.places.dev}/vga_arbiter"),
            dev_mem=self._dev_mem(),
            firmware=self._firmware(host, memory),
            hook=_tried(lambda: _hook(self.places.prefix, known[2] if known else "")),
            watcher=_tried(_watcher, self.places.proc),
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
        found = _tried(self.doors.ctrl, major, minor)
        return found if isinstance(found, Unread | Broken) else f"libxenctrl.so.{major}.{minor} has every call"

    def _stable_library(self, name: str) -> Reading[str]:
        found = _tried(self.doors.stable, name)
        return found if isinstance(found, Unread | Broken) else "loads"

    def _directio(self) -> Reading[bool]:
        if isinstance(self.xen, Unread | Broken):
            return _because(self.xen)
        found = _tried(self.xen.directio)
        if found is None:
            return Unread("this Xen's xc_physinfo is not as this xlplug knows it", "see virt_caps in 'xl info'")
        return found

    def _memory(self) -> Reading[tuple[MemRegion, ...]]:
        return _because(self.xen) if isinstance(self.xen, Unread | Broken) else _tried(self.xen.machine_memory_map)

    # PCI

    def _owned(self) -> dict[Bdf, Domid]:
        found = None if isinstance(self.store, Unread | Broken) else _tried(pci.owners, self.store)
        return {} if found is None or isinstance(found, Unread | Broken) else found

    def _devices(self, owned: dict[Bdf, Domid]) -> tuple[Reading[tuple[PciDevice, ...]], tuple[str, ...]]:
        """Every function, and one sentence for each that cannot be read."""
        names = _tried(os.listdir, self.places.sys_pci)
        if isinstance(names, Unread | Broken):
            return names, ()
        found, damaged = [], []
        for name in sorted(names):
            device = _tried(pci.function, f"{self.places.sys_pci}/{name}", owned)
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
        return Firmware(tuple(read), host.notes)

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
        config = _tried(_parsed, path)
        if isinstance(config, Unread | Broken):
            config = config._replace(why=config.why.removeprefix(f"{path}: "))  # it is the line's name
            return ConfigFacts(path, config)
        plan = _because(host) if isinstance(host, Unread | Broken) else _tried(_rehearsed, config, host)
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
            _fits(model, "" if isinstance(self.version, Unread | Broken) else self.version[2]),
        )

    def _device_model(self, config: DomainConfig, path: str) -> Reading[str]:
        if isinstance(self.version, Unread | Broken) and not config.device_model_override:
            return self._no_xen()
        return _tried(create.device_model, config, path)

    def _sole_vga(self, plan: Plan) -> Reading[bool]:
        """Asks for Xen's ``q`` dump, as ``xlplug create`` does, when the plan needs to know."""
        from xlplug.execute import grants

        if not plan.steps:
            return True
        if isinstance(self.xen, Unread | Broken):
            return _because(self.xen)
        xen = self.xen
        try:
            grants.require_sole_vga(plan, xen, xen.held())  # type: ignore[arg-type] # it only looks
        except Refused as error:
            text, _, advice = error.refusals[0].partition("; ")
            return Broken(text, advice)
        except XlplugError as error:
            return Unread(_message(error), error.hint)
        return True

    def _stubdom_images(self, config: DomainConfig) -> tuple[Reading[str], Reading[str]]:
        folder: Reading[str] = self._no_xen()
        if not isinstance(self.version, Unread | Broken):
            folder = _tried(device_model.firmware_folder, self.version[:2])
        return (
            _image("kernel", config.stubdomain_kernel, folder),
            _image("ramdisk", config.stubdomain_ramdisk, folder),
        )


def _because(reading: Unread | Broken, short: str = "Xen cannot be asked") -> Unread:
    """Not read, since something that it needs is not there; what is broken has its own line, with what to do."""
    return reading if isinstance(reading, Unread) else Unread(short)


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
    return create.rehearse(config, host, create.hindrance(config, create.found_wrapper() or ""))


def _tried_hotplug(path: str) -> str | None:
    """The ``passthrough`` setting, "" when there is none; None where the configuration is libxl's JSON."""
    from xlplug.config import language

    data = read_as_xl(path) or b""
    return None if data.lstrip()[:1] == b"{" else language.parse(data, path=path).get_string("passthrough") or ""


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


def _answer(door: Callable[[], AbstractContextManager[Store]]) -> Reading[str]:
    """What xenstored says of dom0.  A child asks, because the kernel's own way to a dead xenstored waits for ever."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            found = _tried(_ask, door)
            kind = b"B" if isinstance(found, Broken) else b"U" if isinstance(found, Unread) else b"="
            parts = (found,) if isinstance(found, str) else found
            os.write(write_end, kind + "\0".join(parts).encode("utf-8", "surrogateescape"))
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        data = _read_until_closed(read_end, _STORE_SECONDS)
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not data:
        return Broken(
            f"xenstored does not answer within {_STORE_SECONDS:.0f} s",
            "start it (systemctl start xenstored); if it has run already since the boot, reboot",
        )
    kind, text = data[:1], data[1:].decode("utf-8", "surrogateescape")
    if kind == b"=":
        return text
    why, _, advice = text.partition("\0")
    return (Broken if kind == b"B" else Unread)(why, advice)


def _ask(door: Callable[[], AbstractContextManager[Store]]) -> str:
    with door() as store:
        return store.read(_KNOWN_KEY) or ""


def _read_until_closed(fd: int, seconds: float) -> bytes:
    """What comes until the other end closes; empty when that takes longer."""
    data, end = b"", time.monotonic() + seconds
    while True:
        if not select.select([fd], [], [], max(end - time.monotonic(), 0))[0]:
            return b""
        more = os.read(fd, 65536)
        if not more:
            return data
        data += more


def _first_bytes(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, _ARBITER_BYTES).decode("ascii", "replace").partition("\n")[0]  # it repeats itself for ever
    finally:
        os.close(fd)


# the hook -------------------------------------------------------------------------------------------------------------


def _hook(prefix: str, running: str) -> Hook:
    first = install.first_xl()
    hooked = first is not None and device_model.is_ours(first)
    if hooked and first is not None:
        prefix = install.prefix_of(first)
    files = _tried(install.installed, prefix)
    wrapper = _tried(install.wrapper_of, first) if hooked else _tried(create.wrapper)
    model = _tried(device_model.real, "") if running else Unread("no Xen runs here")
    return Hook(
        first=first,
        hooked=hooked,
        prefix=prefix,
        files=files
        if isinstance(files, Unread | Broken)
        else tuple(InstalledFile(path, state) for path, state in files.items()),
        real_xl=_tried(create.real_xl),
        program=_tried(install.program_of, first) if hooked else Unread("no front end is in use"),
        wrapper=wrapper,
        library=device_model.preload_library("" if isinstance(wrapper, Unread | Broken) else wrapper),
        ran=_because(wrapper, "there is no wrapper") if isinstance(wrapper, Unread | Broken) else _tried(_ran, wrapper),
        device_model=model,
        fits=_fits(model, running),
    )


def _fits(path: Reading[str], running: str) -> Reading[str]:
    """What a device model needs of Xen's libraries; `Broken` where the running Xen has something else."""
    if isinstance(path, Unread | Broken):
        return _because(path)
    report = _tried(elf.look_into, path, running)
    if isinstance(report, Unread | Broken):
        return Unread(report.why.replace(f"{path} ", "it "))  # a script, or no pyelftools: it may be in order
    if report.problems:
        return Broken(*report.problems[0])
    if not report.libraries:
        return Unread("it needs no library of Xen's")
    versions = [library.xen for library in report.libraries if library.xen]
    return f"built for Xen {versions[0]}" if versions else "runs on any Xen"


def _ran(path: str) -> Wrapper:
    """Start the wrapper's interpreter as libxl would, and let it import what the wrapper does, no more.

    Raises:
        HostError: it does not start, or does not find what it needs.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    interpreter, *options = lines[0].removeprefix("#!").split()
    code = ["import sys", *(line for line in lines if line.startswith("sys.path.insert(0, "))]
    code += [
        "import xlplug, xlplug.hook.wrapper, xlplug.plan, xlplug.xen.ctrl, xlplug.xen.store",
        "print(xlplug.__version__)",
    ]
    again = "run 'xlplug hook install' with a Python that has python3-cffi"
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            pid = os.posix_spawn(
                interpreter,
                [interpreter, *options, "-c", "\n".join(code)],
                {"PATH": os.defpath},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, write_end, 1),
                    (os.POSIX_SPAWN_DUP2, write_end, 2),
                ],
            )
        except OSError as error:
            raise HostError(f"{path} wants {interpreter}: {error.strerror}", hint=again) from error
        finally:
            os.close(write_end)
            os.close(null)
        output = _read_until_closed(read_end, _WRAPPER_SECONDS).decode("utf-8", "replace").splitlines()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it has closed its output, or takes too long
        os.waitpid(pid, 0)
    finally:
        os.close(read_end)
    if len(output) != 1:
        why = output[-1] if output else f"no answer within {_WRAPPER_SECONDS:.0f} s"
        raise HostError(f"{path} does not start: {why}", hint=again)
    return Wrapper(output[0])


def _watcher(proc: str) -> int | None:
    """The pid of a running ``xlplug watch``, which only root's counts as."""
    found = []
    for pid in (int(name) for name in os.listdir(proc) if name.isdecimal()):
        try:
            if os.stat(f"{proc}/{pid}").st_uid != 0:
                continue
            with open(f"{proc}/{pid}/cmdline", "rb") as file:
                words = [os.path.basename(os.fsdecode(word)) for word in file.read().split(b"\0")[:-1]]
        except OSError:
            continue  # it ended meanwhile
        if any(words[at : at + 2] == ["xlplug", "watch"] for at in range(min(len(words), 4))):
            found.append(pid)
    return min(found, default=None)
