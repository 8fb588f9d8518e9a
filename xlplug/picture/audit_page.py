# SPDX-License-Identifier: LGPL-2.1-only
"""The page of ``xlplug audit``: sums, then one row for each domain; in pieces, because a fleet does not fit into memory."""

from collections.abc import Sequence
from html import escape

from xlplug.picture.html import page

__all__ = ["foot", "head", "row"]

_MARK = "<!--rows-->"
#: A status, and the colours of the address map that it takes.
_COLOURS = {
    "starts": "granted",
    "plain": "legacy",
    "refused": "conflict",
    "unreadable": "conflict",
    "conflict": "delegated",
}
_CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--page-text);font:15px/1.45 system-ui,sans-serif}
main{max-width:70rem;margin:0 auto;padding:1rem}
h1{font-size:1.35rem;margin:.2rem 0 .8rem}
.sums{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.4rem;margin-bottom:1.4rem}
.sums div{background:var(--faint);padding:.4rem .6rem;border-radius:3px}
.sums b{display:block;font-size:1.3rem}
.domain{display:grid;grid-template-columns:minmax(6rem,9rem) minmax(0,1fr);gap:.1rem .8rem}
.domain{padding:.45rem 0;border-top:1px solid var(--line)}
.domain p{grid-column:2;margin:0;overflow-wrap:anywhere}
.status{align-self:start;border-radius:3px;padding:.1rem .5rem;font-size:.85rem}
.faint{color:var(--faint-text);font-size:.85rem}
@media(max-width:30rem){main{padding:.6rem}body{font-size:14px}.domain{grid-template-columns:minmax(0,1fr)}.domain p{grid-column:1}
.status{justify-self:start}}
"""


def head(sums: Sequence[tuple[str, int]]) -> str:
    """All that comes before the rows."""
    return _frame(sums).partition(_MARK)[0]


def foot() -> str:
    """All that comes after them."""
    return _frame(()).partition(_MARK)[2]


def row(host: str, domain: str, path: str, status: str, later: str, findings: Sequence[tuple[str, str]]) -> str:
    """One domain."""
    on = "" if later == "same" else f'<p class="faint">Xen 4.23: {escape(later)}</p>'
    found = "".join(f"<p>{escape(kind)}: {escape(text)}</p>" for kind, text in findings)
    return (
        f'<div class="domain"><span class="status {_COLOURS[status]}">{status}</span>'
        f'<div><b>{escape(domain or "(no name)")}</b> <span class="faint">{escape(host)} · {escape(path)}</span></div>'
        f"{on}{found}</div>\n"
    )


def _frame(sums: Sequence[tuple[str, int]]) -> str:
    kinds = "".join(
        f".{kind}{{background:var(--{kind});color:var(--{kind}-text)}}" for kind in dict.fromkeys(_COLOURS.values())
    )
    cells = "".join(f"<div><b>{number}</b>{escape(name)}</div>" for name, number in sums)
    return page("xlplug audit", _CSS + kinds, f'<h1>xlplug audit</h1>\n<div class="sums">{cells}</div>\n{_MARK}')
