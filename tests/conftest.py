# SPDX-License-Identifier: LGPL-2.1-only
"""Fixtures: recorded hosts by name, configs by text."""

import gc
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from xlplug.config import from_xl, language
from xlplug.config.domain import DomainConfig
from xlplug.dom0 import recording
from xlplug.model.host import HostSnapshot

# "nohup make test &" has these ignored, and whatever the tests start would inherit that.
for number, handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

RECORDED = Path(__file__).parent / "recorded"


gc.disable()  # while modules are imported and tests collected, which leaves none


def pytest_collection_finish() -> None:
    """What has been imported by now stays: looking for garbage in it takes 70 ms each time."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture
def host() -> Callable[[str], HostSnapshot]:
    return lambda name: recording.load_host(str(RECORDED / "hosts" / f"{name}.json"))


@pytest.fixture
def config() -> Callable[[str], DomainConfig]:
    def make(text: str) -> DomainConfig:
        base = 'type="hvm"\nname="g"\nmemory=64\nvga="none"\ndevice_model_version="qemu-xen"\n'
        return from_xl.from_settings(language.parse((base + text).encode()))

    return make
