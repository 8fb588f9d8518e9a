# SPDX-License-Identifier: LGPL-2.1-only
"""All that ``xlplug doctor`` checks, in the order in which it is printed.  Pure: facts in, findings out.

A check is a function from `Facts` to findings.  A new one is a function in one of the checks_*.py, its facts in facts.py,
and its reading in one of the survey_*.py.
"""

from collections.abc import Callable, Iterable

from xlplug.doctor import checks_config, checks_hook, checks_pci, checks_xen
from xlplug.doctor.facts import Facts
from xlplug.doctor.finding import Finding, folded

__all__ = ["CHECKS", "examine"]

Check = Callable[[Facts], Iterable[Finding]]

CHECKS: tuple[Check, ...] = (
    checks_xen.root,
    checks_xen.python,
    checks_xen.xen,
    checks_xen.devices_of_xen,
    checks_xen.libraries,
    checks_xen.store,
    checks_xen.iommu,
    checks_xen.console_ring,
    checks_pci.pciback,
    checks_pci.displays,
    checks_pci.firmware,
    checks_hook.hook,
    checks_hook.watcher,
    checks_config.configs,
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every check's findings, in the order of `CHECKS`; what depends on one failure is in its line."""
    return folded(finding for check in CHECKS for finding in check(facts))
