# SPDX-License-Identifier: LGPL-2.1-only
"""Nothing more than linear: a part of an input is repeated, four times as often the second time.

Processor time and not executed lines: what grows with the square is as often one call in C, a search or a copy, as a loop of ours.
Four times the input may take four times the time; what takes more than ten times as long, three times over, grows faster.
"""

import gc
import time
import zlib
from collections.abc import Callable

__all__ = ["GrowthError", "compare", "look"]

_SMALL = 1 << 15  # bytes
_TIMES = 4
_MOST = 10.0
_LEAST = 0.05  # seconds: what takes less is not measured well


class GrowthError(AssertionError):
    """Time that grows faster than its input."""


def look(run: Callable[[bytes], None], data: bytes) -> None:
    """Cut ``data`` at places that follow from it, repeat the middle, and compare."""
    seed = zlib.crc32(data)
    if not data:
        return
    start = seed % len(data)
    length = 1 + (seed >> 16) % min(40, len(data) - start)
    compare(run, data[:start], data[start : start + length], data[start + length :])


def compare(run: Callable[[bytes], None], before: bytes, middle: bytes, after: bytes) -> None:
    """``middle`` some thousand times, and four times as often."""
    small = before + middle * (_SMALL // len(middle)) + after
    large = before + middle * (_SMALL * _TIMES // len(middle)) + after
    for _ in range(3):
        took = _time(run, small), _time(run, large)
        if took[1] < _LEAST or took[1] < _MOST * took[0]:
            return
    raise GrowthError(
        f"{took[0]:.3f} s and {took[1]:.3f} s for {_TIMES} times {middle!r} behind {before[-60:]!r}, before {after[:60]!r}"
    )


def _time(run: Callable[[bytes], None], data: bytes) -> float:
    gc.collect()
    began = time.process_time()
    run(data)
    return time.process_time() - began
