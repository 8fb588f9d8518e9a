# SPDX-License-Identifier: LGPL-2.1-only
"""Prints how slow this machine is just now, in percent of a quiet one: time limits are multiplied by it.

A program of its own, which dom0 runs before the job.
"""

import time

#: Seconds that the loop takes in the lab on a quiet machine (measured: 0.23 to 0.26, Python 3.11 and 3.13).
QUIET, ADDITIONS = 0.25, 500_000
#: In percent.  More than five times slower than usual, something is wrong that no patience mends.
LEAST, MOST = 100, 500

began = time.monotonic()
total = 0
for number in range(ADDITIONS):
    total += number
print(max(LEAST, min(MOST, round(100 * (time.monotonic() - began) / QUIET))))
