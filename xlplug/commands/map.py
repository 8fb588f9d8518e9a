# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug map``: a domain's address map, in the terminal, as SVG or as HTML."""

import os
import sys
from typing import NamedTuple

from xlplug.commands.common import find_domain, parse_domain, print_lines, read_config, say
from xlplug.commands.opening import readable_xen
from xlplug.dom0 import streams
from xlplug.dom0.files import write_whole
from xlplug.dom0.find_config import parse
from xlplug.model.addr import Domid
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, HostError, printable
from xlplug.model.occasion import AHEAD, BY_HAND, Who
from xlplug.picture.spaces import Held, Picture, draw

FORMATS = ("text", "json", "svg", "html")


class MapOptions(NamedTuple):
    """``xlplug map``'s options; ``format`` "" is the output file's, or text."""

    what: str
    extra: tuple[str, ...] = ()
    host: str | None = None
    output: str = "-"
    format: str = ""


def map_(options: MapOptions) -> int:
    """Draw the map of a configuration, or of a running domain; 1 when its plan is refused."""
    # What goes with a config only says that it is one, and then a wrong path is not taken for a domain's name.
    of_config = options.host is not None or options.extra or not _names_a_domain(options.what)
    picture = _of_config(options) if of_config else _of_domain(options.what)
    # A name may hold anything; a terminal or a browser shows what is printable.
    picture = picture._replace(title=printable(picture.title), subtitle=printable(picture.subtitle))
    form = options.format or os.path.splitext(options.output)[1].removeprefix(".").lower()
    if options.output == "-":
        _show(picture, form or "text")
    elif form in FORMATS:
        write_whole(options.output, _drawn(picture, form).encode())
        say(f"wrote {options.output}")
    else:
        raise HostError(
            f"{options.output} does not say what to draw",
            hint="end it with .svg or .html, or give --format",
            code="XLP803",
        )
    return EXIT_REFUSED if any(kind == "refused" for kind, _ in picture.problems) else EXIT_DONE


def _names_a_domain(what: str) -> bool:
    """Whether it is a domain's number or name: a file of that name comes first, and what looks like a path is one."""
    return not (what == "-" or "/" in what or what.endswith((".cfg", ".json", ".xml")) or os.path.exists(what))


def _of_config(options: MapOptions) -> Picture:
    from xlplug.dom0.recording import load_host
    from xlplug.plan import build

    config = parse(read_config(options.what), options.what, options.extra)
    if options.host is not None:
        host = load_host(options.host)
    else:
        from xlplug.dom0 import snapshot

        with readable_xen() as (xen, store):
            host = snapshot.take(xen, store, config)
    return draw(build(config, host, occasion=AHEAD), config, host)


def _of_domain(what: str) -> Picture:
    from xlplug.dom0 import domains, snapshot
    from xlplug.execute.compare import compare
    from xlplug.plan import build
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    domain = parse_domain(what)
    with XenCtrl() as xen, XenStore() as store:
        info = find_domain(domain, xen, store)
        domid = Domid(info.domid)
        config = domains.domain_config(info)
        who = Who(domid, domains.stubdom_of(domid, store))
        host = snapshot.take(xen, store, config, stubdom=who.stubdom is not None)
        plan = build(config, host, who, BY_HAND)
        held = [Held(c.grantee, c.kind, c.ours, c.held) for c in compare(domid, xen.held(), store)]
    return draw(plan, config, host, held)


def _show(picture: Picture, form: str) -> None:
    if form == "text" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        from xlplug.picture.terminal import coloured

        if coloured(picture):
            return
    if form == "text":
        print_lines(_drawn(picture, form).splitlines())
    else:
        streams.write(_drawn(picture, form))


def _drawn(picture: Picture, form: str) -> str:
    if form == "svg":
        from xlplug.picture.svg import svg

        return svg(picture)
    if form == "html":
        from xlplug.picture.html import html

        return html(picture)
    if form == "json":
        import json

        return json.dumps(map_json(picture), indent=1) + "\n"
    from xlplug.picture.terminal import plain

    return plain(picture)


def map_json(picture: Picture) -> dict[str, object]:
    """The map as docs/map.schema.json describes it."""
    return {
        "schema": "xlplug/map/1",
        "title": picture.title,
        "subtitle": picture.subtitle,
        "spaces": [
            {
                "title": space.title,
                "unit": space.unit,
                "rows": [
                    {
                        "first": row.range.start,
                        "count": row.range.nr,
                        "cells": {
                            column: {"kind": cell.kind, "text": cell.text, "detail": cell.detail}
                            for column, cell in zip(space.columns, row.cells, strict=True)
                            if cell is not None
                        },
                    }
                    for row in space.rows
                    if not row.empty
                ],
            }
            for space in picture.spaces
        ],
        "problems": [{"kind": kind, "text": text} for kind, text in picture.problems],
    }
