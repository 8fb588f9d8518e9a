# SPDX-License-Identifier: LGPL-2.1-only
"""Messages, docstrings, comments and documentation are plain English: the patterns that a reader stumbles over stay out."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import xlplug
from tests.sources import nodes

ROOT = Path(xlplug.__file__).parent
#: What is forbidden, and what to write instead.
PATTERNS = {
    r"(?<!there )\bis no (?!longer\b)\w": "is not a ...",
    r"\bcannot be told\b": "is not known; was not checked",
    r"\b(?:told|tells?)\b": "report, say, show, know, distinguish",
    r"\blibrar(?:y|ies) of \w+'s\b": "a Xen library",
    r"\banew\b": "again",
    r"\bin the midst of\b": "during, while",
    r"\bwhatever\b": "anything that; name it",
    r"\bgrants arranged\b": "granting what the domain needs",
    r"\bfor ever\b": "forever; without end",
    r"\bmend(?:s|ed)?\b": "repair, fix, correct",
    r", too\b": "also",
    r"\bno more (?=than it\b)|\bno more\.": "no longer; nothing else",
}
FORBIDDEN = re.compile("|".join(f"(?:{pattern})" for pattern in PATTERNS), re.IGNORECASE)
#: Documentation and manual pages; without an environment or a package that is built below the tree.
PAGES = sorted(
    path
    for place in (".", "docs", "hooks", "contrib", "packaging", "tests/lab", "tests/recorded", "xlplug")
    for kind in ("*.md", "*.scd")
    for path in (ROOT.parent.glob(kind) if place == "." else (ROOT.parent / place).rglob(kind))
)
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "_ffi.py")


def messages(module: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    """Every string that is not a docstring or another statement by itself."""
    prose = {id(node.value) for node in module if isinstance(node, ast.Expr)}
    for node in module:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def prose(module: Sequence[ast.AST], text: str) -> Iterator[tuple[int, str]]:
    """Docstrings and comments."""
    for node in module:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def found(path: Path) -> list[str]:
    text = path.read_text()
    name = path.relative_to(ROOT)
    lines = [*messages(nodes(path)), *prose(nodes(path), text)]
    return [f"{name}:{line}: '{match[0]}'" for line, string in lines if (match := FORBIDDEN.search(string))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pattern_that_a_reader_stumbles_over(path: Path) -> None:
    assert not found(path), f"write instead: {PATTERNS}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_nor_in_documentation(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    hits = [f"{number}: '{match[0]}'" for number, line in lines if (match := FORBIDDEN.search(line))]
    assert not hits, f"write instead: {PATTERNS}"


@pytest.mark.parametrize(
    "text",
    [
        "domid 'seven' is no domid", "it cannot be told", "QEMU is told", "xl TELLS", "a library of Xen's", "made anew",
        "in the midst of exec", "whatever it is", "with the grants arranged", "for ever", "mend the cause", "it, too",
    ],
)  # fmt: skip
def test_they_are_found(text: str) -> None:
    assert FORBIDDEN.search(text)


@pytest.mark.parametrize(
    "text", ["there is no xl in PATH", "it is no longer there", "two more", "Xen's libraries", "retold"]
)
def test_english_is_not(text: str) -> None:
    assert not FORBIDDEN.search(text)
