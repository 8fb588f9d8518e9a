# SPDX-License-Identifier: LGPL-2.1-only
"""Which functions may be delegated, and what a delegate serves of them: ``xlplug_delegate`` and ``xlplug dm``.

Policy only.  The guest decides where the BARs are, so nothing is granted for them; see docs/delegation.md.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from xlplug.config.delegated import Spec
from xlplug.model.bar import Bar, bars_of, unfit
from xlplug.model.bdf import Bdf
from xlplug.model.host import PCIBACK_DRIVERS, PciDevice
from xlplug.model.problem import Problem

__all__ = ["Delegation", "Served", "delegation"]

_HEADER_TYPE, _CONFIG_HEADER = 0x0E, 64
_CLASS_DISPLAY = 0x03  # base class


class Served(NamedTuple):
    """A function that a delegate serves: how it was named, what it is, its BARs."""

    spec: Spec
    device: PciDevice
    bars: tuple[Bar, ...]


class Delegation(NamedTuple):
    """The functions found, and what is wrong with them."""

    served: tuple[Served, ...] = ()
    notes: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    refusals: tuple[Problem, ...] = ()


def delegation(specs: Sequence[Spec], devices: Iterable[PciDevice], distribution: str, *, granting: bool) -> Delegation:
    """What is delegated.  A function that is not bound to pciback is a refusal when ``granting``, else a warning."""
    by_host = {device.bdf: device for device in devices}
    served: list[Served] = []
    warnings: list[Problem] = []
    refusals: list[Problem] = []
    for spec in specs:
        device = by_host.get(spec.host)
        if device is None:
            refusals.append(Problem(f"{spec.host} was not found on this host", "see 'lspci -D'", code="XLP301"))
            continue
        served.append(Served(spec, device, bars_of(device)))
        never = _never(device)
        if never is not None:
            refusals.append(never)
        elif device.driver not in PCIBACK_DRIVERS:
            (refusals if granting else warnings).append(_unbound(device, distribution))
    notes = [Problem("a delegated device has no interrupts and no DMA", "see docs/delegation.md")] if served else []
    return Delegation(tuple(served), tuple(notes), tuple(warnings), tuple(refusals))


def _never(device: PciDevice) -> Problem | None:
    """What keeps a function from being delegated, bound to pciback or not."""
    host = device.bdf
    if device.owner is not None:
        return Problem(
            f"{host} is assigned to domain {device.owner}, whose device model maps it",
            f"take it back (xl pci-detach {device.owner} {host}), or do not delegate it",
            code="XLP702",
        )
    if len(device.config) < _CONFIG_HEADER:
        return Problem(f"the config space of {host} cannot be read", "run xlplug as root in dom0", code="XLP703")
    if device.config[:_CONFIG_HEADER] == b"\xff" * _CONFIG_HEADER:
        text = f"{host}: it does not answer: its configuration space reads ff"
        return Problem(
            text, "wake it (echo on > power/control in its folder in sysfs), or reboot the host", code="XLP333"
        )
    if device.config[_HEADER_TYPE] & 0x7F:
        return Problem(
            f"{host} is a bridge, and only devices can be delegated", "name the device behind it", code="XLP303"
        )
    return unfit(host, bars_of(device))


def _unbound(device: PciDevice, distribution: str) -> Problem:
    """It has another driver, or none."""
    host: Bdf = device.bdf
    bound = f"bound to the driver {device.driver}" if device.driver else "bound to no driver"
    advice = f"run: xl pci-assignable-add {host}"
    if device.class_code >> 16 == _CLASS_DISPLAY and device.driver:
        from xlplug.hide_at_boot import hide_at_boot

        advice = hide_at_boot(host, distribution)
    return Problem(f"{host} is {bound}, not to pciback", advice, code="XLP304")
