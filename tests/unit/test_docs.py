# SPDX-License-Identifier: LGPL-2.1-only
"""What the documentation says about the code is true: names exist, links lead somewhere, the picture is current."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from docs.layers import PICTURE, picture

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("hooks/**/*.md"), *ROOT.glob("tests/**/*.md")])
_DECIDED = re.compile(r"`(xlplug/[\w/]+\.py):([\w.]+)`")


def defined(path: Path) -> set[str]:
    """The names that a module defines, methods as ``Class.method``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def test_what_is_decided_where_exists() -> None:
    named = _DECIDED.findall((ROOT / "docs" / "architecture.md").read_text())
    assert len(named) >= 12
    assert not [f"{path}:{name}" for path, name in named if name not in defined(ROOT / path)]


def test_the_picture_of_the_layers_is_current() -> None:
    assert PICTURE.read_text() == picture(), "run: python3 -m docs.layers"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", page.read_text())
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert not [t for t in targets if t and "://" not in t and not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_fits_a_screen(page: Path) -> None:
    """A table's row and a program's output cannot be wrapped."""
    lines = enumerate(page.read_text().splitlines(), 1)
    assert not [number for number, line in lines if len(line) > 120 and not line.startswith(("|", "    ", "### "))]


def test_every_path_of_ours_in_xenstore_is_on_the_page_of_who_can_reach_what() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    ours = set(re.findall(r"/xlplug[a-z-]*", (ROOT / "xlplug" / "dom0" / "nodes.py").read_text()))
    assert ours >= {"/xlplug", "/xlplug-devices"}
    assert [name for name in ours if not re.search(rf"{name}(?![a-z-])", page)] == []


@pytest.mark.parametrize(
    ("words", "does"),
    [
        (["fuzz"], "-m tests.fuzz --minutes 60 --seed 0"),
        (["fuzz", "MINUTES=3", "SEED=7"], "--minutes 3 --seed 7"),
        (["soak", "MINUTES=3", "SEED=7"], "soak 3 7"),
        (["soak", "SEED=7"], "soak 10 7"),
    ],
)
def test_make_takes_as_long_as_docs_testing_says(words: list[str], does: str) -> None:
    done = subprocess.run(
        ["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert does in done.stdout


def test_nothing_is_twice_in_the_changelog() -> None:
    """Merges of lines that have moved leave both."""
    lines = re.findall(r"(?m)^- .*", (ROOT / "CHANGELOG.md").read_text())
    assert len(lines) > 50
    assert sorted(set(lines)) == sorted(lines)
