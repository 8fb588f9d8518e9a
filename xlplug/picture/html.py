# SPDX-License-Identifier: LGPL-2.1-only
"""An address map as one HTML file, without scripts and without anything from elsewhere: from a phone's width upwards."""

from html import escape

from xlplug.picture.palette import style
from xlplug.picture.spaces import KINDS, Cell, Picture, Row, Space

__all__ = ["html", "page"]

_CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--page-text);font:15px/1.45 system-ui,sans-serif}
main{--first:10rem;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.35rem;line-height:1.25;margin:.2rem 0}
h2{font-size:1.1rem;margin:1.8rem 0 .4rem}
p{margin:.3rem 0}
.faint{color:var(--faint-text)}
.problems{margin:1rem 0;padding:0;list-style:none}
.problems li{border-left:4px solid var(--line);padding:.15rem .7rem;margin:.4rem 0;background:var(--faint)}
.problems .refused{border-color:var(--conflict)}
.grid{display:grid;gap:2px;align-items:stretch}
.head{color:var(--faint-text);font-size:.85rem;padding:0 .5rem}
.range{font-family:ui-monospace,monospace;font-size:.85rem;padding:.3rem .3rem .3rem 0;overflow-wrap:anywhere}
.gap{color:var(--faint-text);font-size:.75rem;padding:.05rem 0}
.dots{grid-column:2/-1;align-self:center;border-top:1px dashed var(--line)}
.cell{border-radius:3px;padding:.3rem .5rem;min-width:0;overflow-wrap:anywhere}
.cell summary{cursor:pointer;list-style:none}
.cell summary::-webkit-details-marker{display:none}
.cell p{font-size:.85rem;margin-top:.3rem}
.cell:focus-within{outline:2px solid var(--page-text);outline-offset:1px}
.legend{display:grid;grid-template-columns:max-content 1fr;gap:.3rem .8rem;align-items:center}
@media(max-width:30rem){main{--first:6.1rem;padding:.6rem}body{font-size:14px}
.range{font-size:.8rem}.cell{padding:.25rem;font-size:.73rem}.head{padding:0 .25rem}}
@media print{.cell{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def html(picture: Picture) -> str:
    """The whole page."""
    problems = "".join(f'<li class="{what}"><b>{what}</b>: {escape(text)}</li>' for what, text in picture.problems)
    body = [
        f"<h1>{escape(picture.title)}</h1>",
        f'<p class="faint">{escape(picture.subtitle)}. Ranges are hexadecimal and inclusive, and not to scale. '
        "Click a field for more.</p>",
        f'<ul class="problems">{problems}</ul>' if problems else "",
        *(_space(space) for space in picture.spaces),
        "<h2>Legend</h2>",
        '<div class="legend">',
        *(f'<div class="cell {k}">{name}</div><div>{meaning}</div>' for k, (name, meaning) in KINDS.items()),
        "</div>",
    ]
    kinds = "".join(f".{kind}{{background:var(--{kind});color:var(--{kind}-text)}}" for kind in KINDS)
    return page(picture.title, _CSS + kinds, "\n".join(body))


def page(title: str, css: str, body: str) -> str:
    """A page of ours: self-contained, and in the reader's choice of light or dark."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style()}{css}</style>\n<main>\n{body}\n</main>\n</html>\n"
    )


def _space(space: Space) -> str:
    columns = f"var(--first) repeat({len(space.columns)},minmax(0,1fr))"
    parts = [f"<h2>{escape(space.title)}</h2>", f'<div class="grid" style="grid-template-columns:{columns}">']
    parts.append(f'<div class="head" style="padding-left:0">{space.unit}</div>')
    parts += [f'<div class="head">{escape(name)}</div>' for name in space.columns]
    parts += [_row(row) for row in space.rows]
    return "\n".join([*parts, "</div>"])


def _row(row: Row) -> str:
    span = f"{row.range.start:x}" if row.range.nr == 1 else f"{row.range.start:x}-{row.range.last:x}"
    if row.empty:
        return f'<div class="range gap">{span}</div><div class="dots"></div>'
    return f'<div class="range">{span}</div>' + "".join(_cell(cell, span) for cell in row.cells)


def _cell(cell: Cell | None, span: str) -> str:
    if cell is None:
        return "<div></div>"
    detail = escape(f"{span}: {cell.detail}")
    summary = f"<summary>{escape(cell.text)}</summary>"
    return f'<details class="cell {cell.kind}" title="{detail}">{summary}<p>{detail}</p></details>'
