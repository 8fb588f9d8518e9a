# SPDX-License-Identifier: LGPL-2.1-only
"""Fixtures: recorded hosts by name, configs by text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xlplug import domcfg, recording, xlcfg
from xlplug.domcfg import DomainConfig
from xlplug.host import HostSnapshot

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def host() -> Callable[[str], HostSnapshot]:
    return lambda name: recording.load_host(str(RECORDED / "hosts" / f"{name}.json"))


@pytest.fixture
def config() -> Callable[[str], DomainConfig]:
    def make(text: str) -> DomainConfig:
        base = 'type="hvm"\nname="g"\nmemory=64\nvga="none"\n'
        return domcfg.from_settings(xlcfg.parse((base + text).encode()))

    return make
