# SPDX-License-Identifier: LGPL-2.1-only
"""The table in docs/igd.md, a row for each way to pass the display through: what is measured must be what it says."""

from pathlib import Path

DOCUMENT = Path(__file__).parents[4] / "docs" / "igd.md"


def documented(row: str, column: str) -> str:
    """What docs/igd.md says of a way in a version of Xen and QEMU.

    Raises:
        KeyError: it has no such row or column.
    """
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    tables: list[list[list[str]]] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if column in cells or not tables:
            tables.append([])
        tables[-1].append(cells)
    for head, *rows in tables:
        if column in head:
            for cells in rows:
                if cells[0] == row:
                    return cells[head.index(column)]
    raise KeyError(f"{DOCUMENT}: no row '{row}' with a column '{column}'")
