# SPDX-License-Identifier: LGPL-2.1-only
"""What ``xlplug create`` would do with each configuration that was given.  Pure.

The plan is not judged again: its own refusals and warnings become findings.
"""

from collections.abc import Iterator
from datetime import date

from xlplug.doctor.checks_hook import device_model
from xlplug.doctor.facts import ConfigFacts, Facts
from xlplug.doctor.finding import FAILURE, OK, WARNING, Finding, missing
from xlplug.doctor.reading import Missing

#: When XSA-491 (CVE-2026-42487) was fixed, in 4.17 to 4.22 alike.  Source: xenbits.xen.org/xsa/advisory-491.html
_XSA_491 = date(2026, 6, 4)


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
    yield from _stubdomain(facts)
    if config.stubdom and host.built is not None and host.built < _XSA_491:
        yield Finding(
            WARNING, name, f"Xen was built on {host.built}, before the fix of XSA-491 of {_XSA_491}: a stubdomain that maps ports "
            "can then corrupt Xen's memory", "upgrade Xen and reboot",
        )  # fmt: skip


def _stubdomain(facts: ConfigFacts) -> Iterator[Finding]:
    for what, found in (("kernel", facts.kernel), ("ramdisk", facts.ramdisk)):
        if found is None:
            continue
        if isinstance(found, Missing):
            yield missing(facts.path, found, f"stubdomain {what}")
        else:
            yield Finding(OK, facts.path, f"stubdomain {what} {found}")
