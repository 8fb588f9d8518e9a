# SPDX-License-Identifier: LGPL-2.1-only
"""What must be true on a dom0 for xlplug to work: facts in, findings out.  Pure: no I/O, no clock, no environment.

A check is a function from `Facts` to findings, and `CHECKS` is all of them, in the order in which they are printed.  What
concerns a domain's plan is not judged here again: the plan's own warnings and refusals become findings.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from xlplug.doctor.facts import ConfigFacts, Facts, Hook
from xlplug.doctor.reading import Broken, Reading, Unread
from xlplug.model.host import PciDevice
from xlplug.vga import VENDOR_INTEL, owns_legacy_vga

__all__ = ["CHECKS", "FAILURE", "OK", "STATUSES", "WARNING", "Finding", "examine", "worst"]

OK, WARNING, FAILURE = STATUSES = ("ok", "warning", "failure")  #: from best to worst

#: The oldest Xen that the lab has tried, and the oldest Python (pyproject.toml).
_OLDEST_XEN = (4, 14)
_OLDEST_PYTHON = (3, 11)
_PCIBACK = "pciback"  # the driver's name in sysfs


class Finding(NamedTuple):
    """One line: how it is, what it is about, what was found, and what to do ("" when there is nothing to do)."""

    status: str
    name: str
    text: str
    advice: str = ""


Check = Callable[[Facts], Iterable[Finding]]


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every check's findings, in the order of `CHECKS`."""
    return tuple(finding for check in CHECKS for finding in check(facts))


def worst(findings: Iterable[Finding]) -> str:
    """The worst status among them; `OK` when there are none."""
    return max((finding.status for finding in findings), key=STATUSES.index, default=OK)


def _wrong(name: str, found: Unread | Broken, what: str = "") -> Finding:
    """What could not be told is a warning: it may be in order.  What was tried and does not work is a failure."""
    if isinstance(found, Broken):
        return Finding(FAILURE, name, found.why, found.advice)
    return Finding(WARNING, name, f"{what}{' ' if what else ''}cannot be told: {found.why}", found.advice)


def _is(reading: Reading[Any]) -> bool:
    return not isinstance(reading, Unread | Broken)


def _there(name: str, reading: Reading[str]) -> Finding:
    if isinstance(reading, Unread | Broken):
        return _wrong(name, reading)
    return Finding(OK, name, reading)


# this process ---------------------------------------------------------------------------------------------------------


def root(facts: Facts) -> Iterator[Finding]:
    """Xen's devices, config space beyond 64 bytes and /dev/mem are root's."""
    if facts.euid == 0:
        yield Finding(OK, "root", "running as root")
    else:
        yield Finding(
            FAILURE, "root", f"not root (euid {facts.euid}): Xen can be changed by root only", "run it with sudo"
        )


def python(facts: Facts) -> Iterator[Finding]:
    """The interpreter, and what it must find."""
    text = "Python " + ".".join(str(part) for part in facts.python)
    if facts.python >= _OLDEST_PYTHON:
        yield Finding(OK, "python", text)
    else:
        oldest = "{}.{}".format(*_OLDEST_PYTHON)
        yield Finding(FAILURE, "python", f"{text} is older than {oldest}", f"run xlplug with Python {oldest} or later")
    for module in facts.modules:
        yield _there(module.name, module.found)


# Xen ------------------------------------------------------------------------------------------------------------------


def xen(facts: Facts) -> Iterator[Finding]:
    """Whether this is Xen, a version that is known, and its control domain."""
    version = facts.version
    if isinstance(version, Unread | Broken):
        yield _wrong("xen", version)
    elif version < _OLDEST_XEN:
        oldest = "{}.{}".format(*_OLDEST_XEN)
        yield Finding(
            WARNING, "xen", f"Xen {facts.version_text} is older than {oldest}, the oldest that xlplug was tried with",
            "upgrade Xen",
        )  # fmt: skip
    else:
        yield Finding(OK, "xen", f"Xen {facts.version_text}")
    if isinstance(facts.control, Unread | Broken):
        yield _wrong("dom0", facts.control)
    elif facts.control:
        yield Finding(OK, "dom0", "this is the control domain")
    else:
        yield Finding(FAILURE, "dom0", "this is a guest domain", "run xlplug in dom0")


def devices_of_xen(facts: Facts) -> Iterator[Finding]:
    """The special files through which Xen and xenstored are reached."""
    for node in facts.nodes:
        yield _there(node.name, node.found)


def libraries(facts: Facts) -> Iterator[Finding]:
    """libxenctrl of the running version, accepted by Xen; and those with a stable interface."""
    yield _there("libxenctrl", facts.library)
    if isinstance(facts.domctl, Unread | Broken):
        yield _wrong("domain control", facts.domctl)
    else:
        yield Finding(OK, "domain control", "Xen accepts libxenctrl's domain control calls")
    for library in facts.libraries:
        yield _there(library.name, library.found)


def store(facts: Facts) -> Iterator[Finding]:
    """xenstored, and that it knows of dom0, which is xen-init-dom0's work."""
    if isinstance(facts.store, Unread | Broken):
        yield _wrong("xenstored", facts.store)
    elif facts.store != "0":
        yield Finding(
            FAILURE,
            "xenstored",
            "it answers, but has no record of dom0",
            "run xen-init-dom0 (systemctl start xen-init-dom0)",
        )
    else:
        yield Finding(OK, "xenstored", "it answers")


def iommu(facts: Facts) -> Iterator[Finding]:
    """Without an IOMMU in use libxl assigns nothing to an HVM guest."""
    if isinstance(facts.directio, Unread | Broken):
        yield _wrong("iommu", facts.directio)
    elif facts.directio:
        yield Finding(OK, "iommu", "Xen uses an IOMMU (hvm_directio)")
    else:
        yield Finding(
            FAILURE, "iommu", "Xen uses no IOMMU, so that no HVM guest can have a PCI device",
            "turn on VT-d or AMD-Vi in the firmware's setup, and remove iommu=0 from Xen's command line; see 'xl dmesg'",
        )  # fmt: skip


# PCI ------------------------------------------------------------------------------------------------------------------


def pciback(facts: Facts) -> Iterator[Finding]:
    """The driver that holds what is to be assigned."""
    if isinstance(facts.assignable, Unread | Broken):
        yield _wrong("pciback", facts.assignable)
    elif facts.assignable:
        yield Finding(OK, "pciback", f"loaded; assignable: {', '.join(str(bdf) for bdf in facts.assignable)}")
    else:
        yield Finding(
            OK, "pciback", "loaded; no device is assignable yet", "to pass one through: xl pci-assignable-add ADDRESS"
        )


def _displays(facts: Facts) -> list[PciDevice]:
    return [] if isinstance(facts.devices, Unread | Broken) else [d for d in facts.devices if owns_legacy_vga(d)]


def displays(facts: Facts) -> Iterator[Finding]:
    """Which displays there are, who drives them, and which one the legacy VGA cycles reach."""
    if isinstance(facts.devices, Unread | Broken):
        yield _wrong("displays", facts.devices)
        return
    for text in facts.damaged:
        yield Finding(WARNING, "pci", f"a PCI function cannot be read: {text}", "see 'lspci -D' and dom0's kernel log")
    found = _displays(facts)
    if not found:
        yield Finding(OK, "displays", "none on this host")
        return
    for device in found:
        what = f"{device.bdf} [{device.vendor:04x}:{device.device:04x}]"
        add = f"xl pci-assignable-add {device.bdf}"
        if device.owner is not None:
            yield Finding(OK, "display", f"{what} belongs to domain {device.owner}")
        elif device.driver == _PCIBACK:
            yield Finding(OK, "display", f"{what} is assignable")
        elif device.driver is not None:
            yield Finding(OK, "display", f"{what} is dom0's own ({device.driver})", f"to pass it through: {add}")
        else:
            yield Finding(OK, "display", f"{what} has no driver", f"to pass it through: {add}")
    yield _legacy_vga(facts, found)


def _legacy_vga(facts: Facts, found: list[PciDevice]) -> Finding:
    boot = [device for device in found if device.boot_vga]
    arbiter = _arbiter(facts.arbiter)
    if not boot:
        return Finding(
            WARNING, "legacy vga", f"no display is the boot VGA, so that legacy cycles may reach none{arbiter}",
            "let the firmware start the display that is to be passed through",
        )  # fmt: skip
    owner = boot[0]
    by = f", driven by {owner.driver}" if owner.driver else ""
    return Finding(OK, "legacy vga", f"legacy VGA cycles reach {owner.bdf} (boot VGA{by}){arbiter}")


def _arbiter(line: Reading[str]) -> str:
    """The kernel's VGA arbiter, where there is one.  Format: Linux Documentation/gpu/vgaarbiter.rst."""
    if isinstance(line, Unread | Broken):
        return ""
    owns = next((word.removeprefix("owns=") for word in line.split(",") if word.startswith("owns=")), "")
    return f"; dom0's VGA arbiter: owns {owns}" if owns else ""


# memory of firmware ---------------------------------------------------------------------------------------------------


def firmware(facts: Facts) -> Iterator[Finding]:
    """/dev/mem, where a display's OpRegion or VBIOS has to be read through it."""
    needed = any(d.vendor == VENDOR_INTEL or (d.boot_vga and d.rom is not None) for d in _displays(facts))
    wanted = needed or not _is(facts.devices)
    if isinstance(facts.dev_mem, Unread | Broken):
        if wanted:
            yield _wrong("/dev/mem", facts.dev_mem)
        else:
            yield Finding(OK, "/dev/mem", "not readable, and no display here needs it")
    else:
        yield Finding(OK, "/dev/mem", "readable" if wanted else "readable; no display here needs it")
    if isinstance(facts.firmware, Unread | Broken):
        if wanted:
            yield _wrong("firmware", facts.firmware)
        return
    for text in facts.firmware.read:
        yield Finding(OK, "firmware", text)
    for note in facts.firmware.notes:
        yield Finding(WARNING, "firmware", *note)


# the hook -------------------------------------------------------------------------------------------------------------


def hook(facts: Facts) -> Iterator[Finding]:
    """Whether ``xl create`` goes through us, and whether everything on that way works."""
    if isinstance(facts.hook, Unread | Broken):
        yield _wrong("hook", facts.hook)
        return
    yield _first_xl(facts.hook, watched=isinstance(facts.watcher, int))
    yield from _files(facts.hook)
    yield _there("real xl", facts.hook.real_xl)
    if facts.hook.hooked:
        yield _there("xlplug", facts.hook.program)
    if facts.hook.hooked or _is(facts.hook.wrapper):
        yield from _wrapper(facts.hook)
    yield _device_model("device model", facts.hook.device_model, facts.hook.fits)
    none = "not installed: needed only for xlplug_preload=1 and a device model in dom0"
    yield Finding(OK, "preload library", facts.hook.library or none)


def _first_xl(found: Hook, *, watched: bool) -> Finding:
    if found.first is None:
        return Finding(FAILURE, "hook", "no xl in PATH", "install it (Debian: xen-utils), or correct PATH")
    if found.hooked:
        return Finding(OK, "hook", f"'xl create' runs {found.first}, the front end of xlplug")
    if not isinstance(found.files, Unread | Broken) and found.files:
        advice = f"put {found.prefix}/sbin before {found.first.rpartition('/')[0] or '/'} in PATH"
    else:
        advice = "run 'xlplug hook install', or 'xlplug watch' as a service"
    text = f"'xl create' is not hooked: it runs {found.first}"
    if watched:
        return Finding(WARNING, "hook", f"{text}; only 'xlplug watch' grants", advice)
    return Finding(FAILURE, "hook", text, advice)


def _files(found: Hook) -> Iterator[Finding]:
    if isinstance(found.files, Unread | Broken):
        yield _wrong("hook files", found.files)
        return
    bad = [file for file in found.files if file.state]
    for file in bad:
        status = WARNING if file.state == "changed" else FAILURE
        advice = "run 'xlplug hook install' again"
        if file.state == "changed":
            advice = f"save your changes, remove it, and {advice}"
        yield Finding(status, "hook files", f"{file.path} is {_STATES[file.state]}", advice)
    if found.files and not bad:
        yield Finding(OK, "hook files", f"as installed below {found.prefix}")
    elif found.hooked and not found.files:
        yield Finding(
            WARNING, "hook files", f"{found.first} is in no manifest below {found.prefix}",
            "a copy made by hand; 'xlplug hook install' makes one that can be checked and removed",
        )  # fmt: skip


_STATES = {"missing": "missing", "changed": "not as it was installed", "not executable": "not executable"}


def _wrapper(found: Hook) -> Iterator[Finding]:
    if isinstance(found.wrapper, Unread | Broken):
        yield _wrong("wrapper", found.wrapper)
        return
    if isinstance(found.ran, Unread | Broken):
        yield _wrong("wrapper", found.ran)
    else:
        yield Finding(OK, "wrapper", f"{found.wrapper} starts, with xlplug {found.ran.version}")


def watcher(facts: Facts) -> Iterator[Finding]:
    """The daemon is for stacks without the hook: not running is in order."""
    if isinstance(facts.watcher, Unread | Broken):
        yield _wrong("watcher", facts.watcher)
    elif facts.watcher is None:
        yield Finding(OK, "watcher", "not running: needed only without the hook, or for displays plugged in later")
    else:
        yield Finding(OK, "watcher", f"running (pid {facts.watcher})")


# configurations -------------------------------------------------------------------------------------------------------


def configs(facts: Facts) -> Iterator[Finding]:
    """Each configuration as ``xlplug create`` would take it."""
    for each in facts.configs:
        yield from _config(each, facts)


def _config(facts: ConfigFacts, host: Facts) -> Iterator[Finding]:
    name, config = facts.path, facts.config
    if isinstance(config, Unread | Broken):
        yield _wrong(name, config)
        return
    if not config.wants_legacy:
        yield Finding(OK, name, "needs no legacy range: the real xl runs unchanged")
    else:
        yield _device_model(facts.path, facts.device_model, facts.fits, "needs legacy ranges; its device model is ")
    if isinstance(facts.plan, Unread | Broken):
        yield _wrong(name, facts.plan, "what would be granted")
        return
    for refusal in facts.plan.refusals:
        yield Finding(FAILURE, name, *refusal)
    for warning in (*facts.plan.warnings, *(facts.plan.notes if config.preload else ())):
        yield Finding(WARNING, name, *warning)
    if isinstance(facts.sole_vga, Unread | Broken):
        yield _wrong(name, facts.sole_vga, "whether another domain holds the VGA ports")
    if config.type == "hvm" and config.pci and config.maxmem > config.memory and not facts.plan.steps:
        # With steps the plan itself refuses.  Source: tools/libs/light/libxl_create.c, initiate_domain_create (pod_enabled).
        yield Finding(
            FAILURE, name, f"maxmem={config.maxmem} is more than memory={config.memory}: xl refuses a PCI device to a guest "
            "that populates on demand", "set maxmem to memory",
        )  # fmt: skip
    if config.gfx_passthru is not None and not config.pci and facts.hotplug in ("", "disabled"):
        yield Finding(
            WARNING, name, "gfx_passthru is set for a display to be plugged in later, which xl will refuse",
            'write passthrough="enabled"',
        )  # fmt: skip
    yield from _routing(facts, host)
    yield from _stubdomain(facts)


def _device_model(name: str, path: Reading[str], fits: Reading[str], before: str = "") -> Finding:
    """That it is there, and was built for the running Xen.  To look into it is extra: it takes a module of Python's."""
    if isinstance(path, Unread | Broken):
        return _wrong(name, path, "the device model" if before else "")
    if isinstance(fits, Broken):
        return Finding(FAILURE, name, f"the device model {path}: {fits.why}", fits.advice)
    return Finding(OK, name, f"{before}{path} ({f'not looked into: {fits.why}' if isinstance(fits, Unread) else fits})")


def _routing(facts: ConfigFacts, host: Facts) -> Iterator[Finding]:
    """Granting the ranges routes nothing: the cycles go to one card, which the bridges decide."""
    if isinstance(facts.plan, Unread | Broken) or not facts.plan.steps:
        return
    boot = [device.bdf for device in _displays(host) if device.boot_vga]
    for assigned in facts.plan.devices:
        device = assigned.device
        if boot and owns_legacy_vga(device) and device.bdf not in boot:
            yield Finding(
                WARNING, facts.path, f"legacy VGA cycles reach {boot[0]}, not the assigned {device.bdf}",
                "let the firmware start that display first, or let the guest's driver do without legacy VGA",
            )  # fmt: skip


def _stubdomain(facts: ConfigFacts) -> Iterator[Finding]:
    for what, found in (("kernel", facts.kernel), ("ramdisk", facts.ramdisk)):
        if found is None:
            continue
        if isinstance(found, Unread | Broken):
            yield _wrong(facts.path, found, f"the stubdomain's {what}")
        else:
            yield Finding(OK, facts.path, f"stubdomain {what} {found}")


#: All checks, in the order in which they are printed.  A new one is a function here and its facts in facts.py.
CHECKS: tuple[Check, ...] = (
    root,
    python,
    xen,
    devices_of_xen,
    libraries,
    store,
    iommu,
    pciback,
    displays,
    firmware,
    hook,
    watcher,
    configs,
)
