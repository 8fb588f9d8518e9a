# SPDX-License-Identifier: LGPL-2.1-only
"""docs/errors.md explains messages that exist: every heading's words are in a message of the package."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Fragments that libxenctrl and the C library bring.
_OTHERS = {"EPERM"}


def texts() -> list[str]:
    """Every string of the package, f-strings with a placeholder for each value."""
    found = []
    for path in (ROOT / "xlplug").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_explained_message_exists() -> None:
    headings = re.findall(r"(?m)^### (.+)$", (ROOT / "docs" / "errors.md").read_text())
    assert len(headings) > 20
    said = texts()
    for message in (part for heading in headings for part in re.findall(r"`([^`]+)`", heading)):
        words = [w.strip(" '") for w in message.split("…") if w.strip(" '") and w.strip(" '") not in _OTHERS]
        assert any(all(word in text for word in words) for text in said), f"no message says {message!r}"
