# SPDX-License-Identifier: LGPL-2.1-only
"""Granting and revoking under fire: every fault at every position, on five versions of Xen.  ``make faults`` is a table of it."""

import pytest

from tests.fault.check import CLASSES, failures
from tests.fault.scenarios import SCENARIOS, Scenario

CELLS = [(scenario, version) for scenario in SCENARIOS for version in scenario.versions]


@pytest.mark.parametrize(("scenario", "version"), CELLS, ids=lambda one: getattr(one, "name", one and str(one)))
def test_nothing_is_left_half_done(scenario: Scenario, version: tuple[int, int]) -> None:
    tried, _, wrong = failures(scenario, version)
    assert not wrong, "\n".join(wrong[:5])
    assert {"errno", "xenstore", "Ctrl-C", "kill", "xl destroy"} <= set(tried) <= set(CLASSES)
