# SPDX-License-Identifier: LGPL-2.1-only
"""What ``xlplug create`` would do with each configuration that was given.  Pure.

The plan is not judged again: its own refusals and warnings become findings.
"""

from collections.abc import Iterator

from xlplug.doctor.checks_hook import device_model
from xlplug.doctor.checks_pci import displays_of
from xlplug.doctor.facts import ConfigFacts, Facts
from xlplug.doctor.finding import FAILURE, OK, WARNING, Finding, missing
from xlplug.doctor.reading import Missing
from xlplug.vga import owns_legacy_vga


def configs(facts: Facts) -> Iterator[Finding]:
    """Each configuration as ``xlplug create`` would take it."""
    for each in facts.configs:
        yield from _config(each, facts)


def _config(facts: ConfigFacts, host: Facts) -> Iterator[Finding]:
    name, config = facts.path, facts.config
    if isinstance(config, Missing):
        yield missing(name, config)
        return
    if not config.wants_legacy:
        yield Finding(OK, name, "needs no legacy range: the real xl runs unchanged")
    else:
        yield device_model(facts.path, facts.device_model, facts.fits, "needs legacy ranges; its device model is ")
    if isinstance(facts.plan, Missing):
        yield missing(name, facts.plan, "the plan")
        return
    for refusal in facts.plan.refusals:
        yield Finding(FAILURE, name, *refusal)
    for warning in (*facts.plan.warnings, *(facts.plan.notes if config.preload else ())):
        yield Finding(WARNING, name, *warning)
    if isinstance(facts.sole_vga, Missing):
        yield missing(name, facts.sole_vga, "another domain's VGA ports")
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


def _routing(facts: ConfigFacts, host: Facts) -> Iterator[Finding]:
    """Granting the ranges routes nothing: the bridges decide which one card the cycles go to."""
    if isinstance(facts.plan, Missing) or not facts.plan.steps:
        return
    boot = [device.bdf for device in displays_of(host) if device.boot_vga]
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
        if isinstance(found, Missing):
            yield missing(facts.path, found, f"stubdomain {what}")
        else:
            yield Finding(OK, facts.path, f"stubdomain {what} {found}")
