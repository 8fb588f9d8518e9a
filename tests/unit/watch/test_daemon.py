# SPDX-License-Identifier: LGPL-2.1-only
"""Signals that end a command or the daemon, and those that were ignored before it began."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from xlplug.commands.common import interruptible
from xlplug.watch.daemon import _signals

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def daemon() -> None:
    end = _signals()
    wake = signal.set_wakeup_fd(-1)
    signal.raise_signal(signal.SIGTERM)
    for fd in (end, wake):
        os.close(fd)


@pytest.mark.parametrize("begin", [interruptible, daemon])
def test_nohup(begin: Callable[[], None]) -> None:
    """A terminal that goes away ends neither 'nohup xlplug grant' nor 'nohup xlplug watch'."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    begin()
    assert callable(signal.getsignal(signal.SIGHUP))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    begin()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert callable(signal.getsignal(signal.SIGTERM))
