# SPDX-License-Identifier: LGPL-2.1-only
"""Address maps: what is in them, and that each form of them is well made."""

import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from tests.forked import xlplug
from xlplug.commands.map import map_json
from xlplug.config.domain import DomainConfig
from xlplug.dom0.find_config import parse
from xlplug.dom0.recording import load_host
from xlplug.model.rangeset import RangeSet
from xlplug.picture.html import html
from xlplug.picture.palette import DARK, LIGHT
from xlplug.picture.spaces import KINDS, Held, Picture, draw
from xlplug.picture.svg import svg
from xlplug.picture.terminal import plain
from xlplug.plan import build

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / "examples" / "domain.cfg").read_bytes()
TWO = b'name="two"\ntype="hvm"\nmemory=2048\ngfx_passthru="igd"\npci=["00:02.0","01:00.0"]\n'
RAM_AT_4G = b'name="ram"\ntype="hvm"\nmemory=4096\nvga="stdvga"\nvideoram=16\nxlplug_preload=1\nioports=["2f8-2ff"]\n'


def picture(config: bytes = EXAMPLE, host: str = "igd-laptop", held: tuple[Held, ...] = ()) -> Picture:
    read: DomainConfig = parse(config, "test.cfg", ())
    on = load_host(str(ROOT / "tests" / "recorded" / "hosts" / f"{host}.json"))
    return draw(build(read, on), read, on, held)


def cells(drawn: Picture, space: str) -> dict[str, tuple[str, ...]]:
    """Kinds by the row's range, "-" where a column has nothing; gaps left out."""
    (found,) = [s for s in drawn.spaces if s.title == space]
    return {
        f"{row.range.start:x}-{row.range.last:x}": tuple(cell.kind if cell else "-" for cell in row.cells)
        for row in found.rows
        if not row.empty
    }


def test_ports_of_the_example() -> None:
    assert cells(picture(), "I/O ports") == {
        "3b0-3bb": ("legacy", "granted", "granted"),
        "3c0-3df": ("legacy", "granted", "granted"),
        "f000-f03f": ("bar", "delegated", "libxl"),
    }


def test_low_megabyte_of_the_example() -> None:
    low = cells(picture(), "Low megabyte of the machine")
    assert low["a0-bf"] == ("legacy", "both", "both")
    assert low["c0-cf"] == ("legacy", "libxl", "both"), "libxl grants the shadow to the target, xlplug never does"
    assert low["d0-df"] == ("-", "libxl", "libxl")


def test_every_grant_of_the_plan_is_in_the_picture() -> None:
    """And nothing else is shown as granted: the picture is compared with the plan, range by range."""
    read = parse(EXAMPLE, "test.cfg", ())
    on = load_host(str(ROOT / "tests" / "recorded" / "hosts" / "igd-laptop.json"))
    plan = build(read, on)
    drawn = draw(plan, read, on)
    for unit, kind in (("mfn", "iomem"), ("port", "ioport")):
        for column, grantee in ((1, "target"), (2, "stubdom")):
            shown = RangeSet(
                row.range
                for space in drawn.spaces
                if space.unit == unit
                for row in space.rows
                if (cell := row.cells[column]) is not None and cell.kind in ("granted", "both")
            )
            assert shown == RangeSet(s.range for s in plan.steps if s.kind == kind and s.grantee == grantee)


def test_rows_of_a_space_follow_one_another() -> None:
    for drawn in (picture(), picture(TWO, "hybrid-nvidia"), picture(RAM_AT_4G)):
        for space in drawn.spaces:
            stops = [row.range.stop for row in space.rows]
            assert [row.range.start for row in space.rows][1:] == stops[:-1], space.title


def test_of_two_displays_one_is_noted_as_secondary() -> None:
    drawn = picture(TWO, "hybrid-nvidia")
    assert cells(drawn, "I/O ports")["3c0-3df"] == ("legacy", "granted")
    assert any(kind == "note" and "0000:01:00.0: secondary" in text for kind, text in drawn.problems)


def test_an_opregion_in_ram_is_in_conflict() -> None:
    drawn = picture(EXAMPLE, "igd-opregion-in-ram")
    assert [kind for kind, _ in drawn.problems if kind == "refused"]


def test_guest_memory() -> None:
    guest = cells(picture(RAM_AT_4G), "Guest memory")
    assert guest["c0-effff"] == ("memory",)
    assert guest["f0000-fffff"] == ("bar",)
    assert guest["10f000-10ffff"] == ("populated",)
    without = cells(picture(RAM_AT_4G.replace(b"xlplug_preload=1", b"")), "Guest memory")
    assert without["10f000-10ffff"] == ("delegated",), "QEMU populates it where xlplug does not"


def test_a_running_domain_shows_what_xen_says() -> None:
    ours, held = RangeSet([(0x3B0, 0x3BC), (0x3C0, 0x3E0)]), RangeSet([(0x3B0, 0x3BC), (0x2F8, 0x300)])
    drawn = picture(held=(Held("target", "ioport", ours, held),))
    ports = cells(drawn, "I/O ports")
    assert ports["3b0-3bb"][1] == "granted"
    assert ports["3c0-3df"][1] == "conflict", "ours, and taken away since"
    assert ports["2f8-2ff"][1] == "libxl"


def test_svg_is_well_formed_self_contained_and_says_everything() -> None:
    text = svg(picture())
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any("3b0-3bb: granted by xlplug: VGA ports, monochrome" in t for t in titles)
    height = float(root.attrib["height"])
    assert all(float(t.attrib["y"]) < height for t in root.iter("{http://www.w3.org/2000/svg}text"))
    assert not re.search(r'(href|src)=|url\((?!#hatch)|http(?!://www.w3.org/2000/svg")', text)


def test_html_is_self_contained_and_has_no_script() -> None:
    text = html(picture())
    assert not re.search(r"<script|(href|src)=|url\(|https?:", text)
    assert text.count("<details") == sum(
        cell is not None for space in picture().spaces for row in space.rows for cell in row.cells
    )


def test_names_of_a_domain_are_not_markup() -> None:
    hostile = picture(EXAMPLE.replace(b'"gpu"', b'"<script>&x"'))
    assert "<script>" not in html(hostile)
    ElementTree.fromstring(svg(hostile))


def test_plain_text() -> None:
    text = plain(picture())
    assert "  3b0-3bb    VGA, monochrome   granted       granted\n" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_json_fits_its_schema() -> None:
    schema = json.loads((ROOT / "docs" / "map.schema.json").read_text())
    for drawn in (picture(), picture(TWO, "hybrid-nvidia"), picture(RAM_AT_4G)):
        jsonschema.validate(map_json(drawn), schema)
    kinds = schema["properties"]["spaces"]["items"]["properties"]["rows"]["items"]["properties"]["cells"]
    assert set(kinds["additionalProperties"]["properties"]["kind"]["enum"]) == set(KINDS)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(colours: dict[str, tuple[str, str]]) -> None:
    """WCAG 2.1, 1.4.3: 4.5 to 1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert set(colours) == {*KINDS, "page", "faint", "line"}
    for name, (fill, text) in colours.items():
        if name == "line":
            continue
        light, dark = sorted((luminance(fill), luminance(text)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return xlplug("map", *words)


def test_command(tmp_path: Path) -> None:
    words = ["examples/domain.cfg", "--host", "tests/recorded/hosts/igd-laptop.json"]
    assert run(*words).stdout == plain(picture())
    for name, form in (("a.svg", svg), ("a.html", html)):
        out = tmp_path / name
        assert run(*words, "-o", str(out)).stdout == f"wrote {out}\n"
        assert out.read_text() == form(picture())
    done = run(*words, "-o", str(tmp_path / "a.png"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "does not say what to draw" in done.stderr
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.html", "a.svg"]
    two = tmp_path / "two.cfg"
    two.write_bytes(TWO)
    assert run(str(two), "--host", "tests/recorded/hosts/hybrid-nvidia.json").returncode == 0
    assert run(str(two), "--host", "tests/recorded/hosts/igd-opregion-in-ram.json").returncode == 1


def test_a_wrong_path_is_not_taken_for_a_domain(tmp_path: Path) -> None:
    done = run("nosuch", "--host", "tests/recorded/hosts/igd-laptop.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("xlplug: nosuch: No such file or directory; give the path of an xl config")
