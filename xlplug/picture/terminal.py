# SPDX-License-Identifier: LGPL-2.1-only
"""An address map for a terminal: plain columns anywhere; with python3-rich and a terminal that has colours, coloured."""

from collections.abc import Iterator

from xlplug.model.errors import printable
from xlplug.picture.palette import DARK
from xlplug.picture.spaces import Picture, Row, Space

__all__ = ["coloured", "plain"]


def plain(picture: Picture) -> str:
    """Aligned columns, nothing else."""
    lines = [picture.title, picture.subtitle, ""]
    for space in picture.spaces:
        cells = list(_table(space))
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines += [
            space.title,
            *("  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells),
        ]
        lines.append("")
    lines += [f"{what}: {text}" for what, text in picture.problems]
    return "\n".join(lines).rstrip() + "\n"


def coloured(picture: Picture) -> bool:
    """Print it in colours; False where python3-rich is not installed, and then nothing was printed."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        return False
    console = Console(highlight=False)
    console.print(Text(printable(picture.title), style="bold"))
    console.print(Text(printable(picture.subtitle), style="dim"))
    for space in picture.spaces:
        table = Table(title=printable(space.title), title_justify="left", box=None, padding=(0, 1), title_style="bold")
        for name in (space.unit, *space.columns):
            table.add_column(name, header_style="dim", overflow="fold")
        for row in space.rows:
            fields = [Text(_span(row), style="dim" if row.empty else "")]
            for cell in row.cells:
                fill, ink = DARK[cell.kind] if cell else ("", "")
                fields.append(Text(f" {printable(cell.text)} ", style=f"{ink} on {fill}") if cell else Text(""))
            table.add_row(*fields)
        console.print(table)
    for what, text in picture.problems:
        console.print(Text(printable(f"{what}: {text}"), style="bold red" if what == "refused" else ""))
    return True


def _table(space: Space) -> Iterator[tuple[str, ...]]:
    yield (space.unit, *space.columns)
    for row in space.rows:
        yield (_span(row), *(cell.text if cell else "" for cell in row.cells))


def _span(row: Row) -> str:
    return f"{row.range.start:x}" if row.range.nr == 1 else f"{row.range.start:x}-{row.range.last:x}"
