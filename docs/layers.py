# SPDX-License-Identifier: LGPL-2.1-only
"""Draw docs/layers.svg: the floors of the house, and which floor imports which.

    python3 -m docs.layers        # writes the picture
    python3 -m docs.layers --rooms  # prints the rooms with their lines, largest module first

Everything in it comes from the layer test's own table, the package's docstring and the import statements.
"""

import re
import sys
import textwrap
from html import escape
from pathlib import Path

import xlplug
from tests.unit.test_layers import LAYERS, layer, modules, ours

PICTURE = Path(__file__).with_name("layers.svg")
ROW, TOP, LEFT, NAMES, CELL = 74, 96, 24, 640, 30
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .name { font-weight: 600; font-size: 15px } .what { fill: #59636e } .files { font: 12px ui-monospace, monospace }
  .floor { fill: #f6f8fa; stroke: #d1d9e0 } .pure { fill: #eaf5ea; stroke: #9cc59c } .dot { fill: #0969da } .own { fill: #d1d9e0 }
  .page { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .what { fill: #9198a1 } .floor { fill: #151b23; stroke: #3d444d } .page { fill: #0d1117 }
    .pure { fill: #12261e; stroke: #2a5a3c } .dot { fill: #4493f8 } .own { fill: #3d444d }
  }
"""


def purposes() -> dict[str, str]:
    """What each floor is for, from the package's docstring."""
    found = re.findall(r"(?m)^    (\w+) +(.+)$", xlplug.__doc__ or "")
    return {name: text.partition(": vga.py")[0] for name, text in found if name in LAYERS}


def rooms() -> dict[str, list[str]]:
    """The modules of each floor; a folder's own ``__init__`` is left out."""
    found: dict[str, list[str]] = {name: [] for name in LAYERS}
    for module in sorted(modules()):
        if module not in LAYERS:
            found[LAYERS[layer(module)]].append(module.rpartition(".")[2])
    return found


def imported() -> dict[str, set[str]]:
    """For each floor, the floors that its modules import."""
    found: dict[str, set[str]] = {name: set() for name in LAYERS}
    for module, path in modules().items():
        found[LAYERS[layer(module)]] |= {LAYERS[layer(target)] for target in ours(path)}
    return found


def picture() -> str:
    """The whole picture: the floors with the top of the house above, and beside them a dot for each import."""
    floors = LAYERS[::-1]
    right = LEFT + NAMES + 20
    width, height = right + CELL * len(floors) + 30, TOP + ROW * len(floors) + 56
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>The floors of xlplug, and what they import</title><style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    imports, what, files = imported(), purposes(), rooms()
    for column, name in enumerate(floors):
        x = right + CELL * column + CELL / 2
        out.append(f'<text transform="translate({x + 4} {TOP - 12}) rotate(-55)">{name}</text>')
    for row, name in enumerate(floors):
        y = TOP + ROW * row
        kind = "pure" if LAYERS.index(name) < LAYERS.index("xen") else "floor"
        out.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{NAMES}" height="{ROW - 8}" rx="6"/>')
        out.append(f'<text class="name" x="{LEFT + 12}" y="{y + 22}">{name}</text>')
        out.append(f'<text class="what" x="{LEFT + 110}" y="{y + 22}">{escape(what[name])}</text>')
        for i, line in enumerate(textwrap.wrap(" ".join(files[name]), 82)[:2]):
            out.append(f'<text class="files" x="{LEFT + 12}" y="{y + 42 + 15 * i}">{escape(line)}</text>')
        for column, target in enumerate(floors):
            x, middle = right + CELL * column + CELL / 2, y + (ROW - 8) / 2
            if target in imports[name] or target == name:
                out.append(f'<circle class="{"own" if target == name else "dot"}" cx="{x}" cy="{middle}" r="6"/>')
    note = "A dot: a module of the floor in this row imports one of the floor in that column.  Green floors are pure: no I/O."
    out.append(f'<text class="what" x="{LEFT}" y="{height - 22}">{note}</text></svg>')
    return "\n".join(out) + "\n"


def lines() -> str:
    """The rooms with their lines of code, for a reader who wants to know how much there is to read."""
    rows = []
    for name in LAYERS:
        sizes = {p: len(p.read_text().splitlines()) for m, p in modules().items() if LAYERS[layer(m)] == name}
        largest = max(sizes, key=lambda path: sizes[path])
        rows.append(
            f"{name:10}{len(sizes):4} modules {sum(sizes.values()):6} lines   largest {largest.name} {sizes[largest]}"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    if "--rooms" in sys.argv:
        sys.stdout.write(lines())
    else:
        PICTURE.write_text(picture())
