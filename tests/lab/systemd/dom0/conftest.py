# SPDX-License-Identifier: LGPL-2.1-only
"""For tests in the dom0 whose first process is systemd: xlplug is installed from Debian's packages, and nothing is switched on."""

import pytest

from tests.lab.dom0.conftest import sh
from tests.lab.dom0.packaged import install, offer
from tests.lab.systemd.machine import DISPLAY


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session", autouse=True)
def assignable() -> None:
    """The display, bound to pciback."""
    sh("xl", "pci-assignable-add", DISPLAY)
    assert DISPLAY in sh("xl", "pci-assignable-list").stdout


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    offer()
    install()
