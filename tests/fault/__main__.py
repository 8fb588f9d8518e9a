# SPDX-License-Identifier: LGPL-2.1-only
"""``python -m tests.fault [WORD]``: the table of what was tried, and how much of it ended well."""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.fault.check import CLASSES, failures
from tests.fault.scenarios import SCENARIOS

Cell = tuple[int, tuple[int, int]]


def cell(of: Cell) -> tuple[Counter[str], Counter[str], list[str]]:
    return failures(SCENARIOS[of[0]], of[1])


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    cells = [(i, version) for i, one in enumerate(SCENARIOS) if word in one.name for version in one.versions]
    tried: dict[int, Counter[str]] = {i: Counter() for i, _ in cells}
    wrong: dict[int, Counter[str]] = {i: Counter() for i, _ in cells}
    texts: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for (i, _), found in zip(cells, pool.map(cell, cells), strict=True):
            tried[i] += found[0]
            wrong[i] += found[1]
            texts += found[2]
    width = max(len(SCENARIOS[i].name) for i in tried) + 2
    print("faults that left all as it must be, of those tried (%)\n")
    print(" " * width + "".join(f"{name:>16}" for name in CLASSES))
    for i in tried:
        row = [f"{100 * (n - wrong[i][k]) / n:.0f} of {n}" if (n := tried[i][k]) else "-" for k in CLASSES]
        print(SCENARIOS[i].name.ljust(width) + "".join(f"{text:>16}" for text in row))
    total = sum(counter.total() for counter in tried.values())
    print(f"\n{total} faults, {len(texts)} of them wrong")
    for text in texts[:10]:
        print(text)
    return 1 if texts else 0


if __name__ == "__main__":
    sys.exit(main())
