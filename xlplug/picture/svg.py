# SPDX-License-Identifier: LGPL-2.1-only
"""An address map as one SVG file, without anything from elsewhere: for documents, tickets and printing."""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import count

from xlplug.picture.palette import style
from xlplug.picture.spaces import KINDS, Picture, Row, Space

__all__ = ["svg"]

_WIDTH = 860
_MARGIN = 20
_LABEL = 170  # of a row: its range
_LINE = 18
_CHARACTERS = 108  # of a line of prose, at 13 px

_CSS = """
text{font:13px system-ui,sans-serif;fill:var(--page-text)}
.page{fill:var(--page)}
.title{font-size:18px;font-weight:600}
.space{font-size:15px;font-weight:600}
.faint{fill:var(--faint-text)}
.number{font-family:ui-monospace,monospace}
.gap{stroke:var(--line);stroke-dasharray:2 4}
rect.hatched{fill:url(#hatch)}
"""


def svg(picture: Picture) -> str:
    """The whole file."""
    parts: list[str] = []
    y = _MARGIN + 16
    parts.append(_text(_MARGIN, y, picture.title, "title"))
    y += _LINE + 4
    parts.append(_text(_MARGIN, y, f"{picture.subtitle}; ranges are hexadecimal and inclusive, not to scale", "faint"))
    for what, words in picture.problems:
        y += 6
        for line in _wrapped(f"{what}: {words}"):
            y += _LINE
            parts.append(_text(_MARGIN, y, line, ""))
    for space in picture.spaces:
        y += 2 * _LINE
        drawn, y = _space(space, y)
        parts += drawn
    y += 2 * _LINE
    drawn, y = _legend(y)
    parts += drawn
    height = y + _MARGIN
    kinds = "".join(f".{kind}{{fill:var(--{kind})}}text.{kind}{{fill:var(--{kind}-text)}}" for kind in KINDS)
    hatch = (
        '<defs><pattern id="hatch" width="8" height="8" patternTransform="rotate(45)" patternUnits="userSpaceOnUse">'
        '<line x1="0" y1="0" x2="0" y2="8" stroke="var(--page)" stroke-opacity=".28" stroke-width="5"/></pattern></defs>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img"><title>{escape(picture.title)}</title><style>{style()}{_CSS}{kinds}</style>{hatch}'
    )
    page = f'<rect class="page" width="{_WIDTH}" height="{height}"/>'
    return "\n".join([head, page, *parts, "</svg>"]) + "\n"


def _space(space: Space, y: int) -> tuple[list[str], int]:
    width = (_WIDTH - 2 * _MARGIN - _LABEL) // len(space.columns)
    parts = [_text(_MARGIN, y, space.title, "space")]
    y += _LINE + 2
    parts.append(_text(_MARGIN, y, space.unit, "faint"))
    parts += [_text(_MARGIN + _LABEL + i * width + 8, y, name, "faint") for i, name in enumerate(space.columns)]
    y += 6
    for row in space.rows:
        height = _height(row)
        parts += _row(row, y, height, width)
        y += height + 2
    return parts, y


def _row(row: Row, y: int, height: int, width: int) -> Iterator[str]:
    base = y + height // 2 + 5
    yield _text(_MARGIN, base, _span(row), "number faint" if row.empty else "number")
    if row.empty:
        middle = y + height // 2
        yield f'<line class="gap" x1="{_MARGIN + _LABEL}" y1="{middle}" x2="{_WIDTH - _MARGIN}" y2="{middle}"/>'
        return
    for i, cell in enumerate(row.cells):
        if cell is None:
            continue
        x = _MARGIN + _LABEL + i * width
        box = f'x="{x}" y="{y}" width="{width - 4}" height="{height}" rx="3"'
        yield f'<g><title>{escape(f"{_span(row)}: {cell.detail}")}</title><rect class="{cell.kind}" {box}/>'
        if cell.kind == "conflict":
            yield f'<rect class="hatched" {box}/>'
        yield f"{_text(x + 8, base, _cut(cell.text, width), cell.kind)}</g>"


def _legend(y: int) -> tuple[list[str], int]:
    parts = [_text(_MARGIN, y, "Legend", "space")]
    y += 10
    for kind, (name, meaning) in KINDS.items():
        parts.append(f'<rect class="{kind}" x="{_MARGIN}" y="{y}" width="{_LABEL - 10}" height="20" rx="3"/>')
        parts.append(_text(_MARGIN + 8, y + 15, name, kind))
        parts.append(_text(_MARGIN + _LABEL + 8, y + 15, meaning, ""))
        y += 24
    return parts, y


def _height(row: Row) -> int:
    """Larger ranges are a little higher: by their number of binary digits."""
    return 14 if row.empty else 20 + row.range.nr.bit_length() // 2


def _span(row: Row) -> str:
    return f"{row.range.start:x}" if row.range.nr == 1 else f"{row.range.start:x}-{row.range.last:x}"


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'


def _cut(text: str, width: int) -> str:
    """What fits; the whole text is what pointing at it shows."""
    room = (width - 16) // 7
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _wrapped(text: str) -> Sequence[str]:
    lines: list[str] = []
    words = text.split()
    for n in count():
        if not words:
            return lines
        line = "    " if n else ""
        while words and (len(line) + len(words[0]) <= _CHARACTERS or not line.strip()):
            line += words.pop(0) + " "
        lines.append(line.rstrip())
    return lines
