# SPDX-License-Identifier: LGPL-2.1-only
"""A vCPU that reads and writes a BAR, and reads config space, without a pause, and measures how long it had to wait.

The guest does it itself (tests/lab/stubdom/puppet.S, hammer): a record in its memory has the longest round, in ticks of its time
stamp counter.  How long a tick is, is measured here, over the whole run.
"""

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.lab.dom0.puppet import BUFFER, Puppet

_RECORD = BUFFER + 0x800
_LAYOUT = "<IIQQIIII"
_ENABLE = 0x80000000


class Seen(NamedTuple):
    """How many rounds there were, the longest in seconds, and what the last and the longest have read: BAR, config space."""

    rounds: int
    worst: float
    last: tuple[int, int]
    in_worst: tuple[int, int]


class Hammer:
    """One vCPU, hammering."""

    def __init__(self, puppet: Puppet, address: int, devfn: int, vcpu: int) -> None:
        self._puppet, self._vcpu = puppet, vcpu
        puppet.memory(_RECORD, bytes(struct.calcsize(_LAYOUT)))
        puppet.begin("hammer", address, _RECORD, _ENABLE | devfn << 8, vcpu=vcpu)
        self.wait_rounds(20)
        self._began = time.monotonic(), self._read()[3]

    def _read(self) -> tuple[int, ...]:
        return struct.unpack(_LAYOUT, self._puppet.memory(_RECORD, size=struct.calcsize(_LAYOUT)))

    @property
    def rounds(self) -> int:
        return self._read()[1]

    def wait_rounds(self, count: int, seconds: float = 30) -> None:
        """Until there were so many more."""
        wanted, deadline = self.rounds + count, time.monotonic() + seconds
        while self.rounds < wanted:
            assert time.monotonic() < deadline, f"the vCPU stands still after {self.rounds} rounds"
            self._puppet.serve_for(0.02)

    def look(self) -> Seen:
        """What there was so far."""
        _, rounds, worst, ticks, bar, config, worst_bar, worst_config = self._read()
        per_second = (ticks - self._began[1]) / (time.monotonic() - self._began[0])
        return Seen(rounds, worst / per_second, (bar, config), (worst_bar, worst_config))

    def stop(self) -> Seen:
        self._puppet.memory(_RECORD, b"\1")
        self._puppet.finish(vcpu=self._vcpu)
        return self.look()


@contextmanager
def hammering(puppet: Puppet, address: int, devfn: int, vcpu: int = 0) -> Iterator[Hammer]:
    """Hammer meanwhile; it is stopped at the end, if it has not been."""
    hammer = Hammer(puppet, address, devfn, vcpu)
    try:
        yield hammer
    finally:
        if not puppet.finished(vcpu):
            hammer.stop()
