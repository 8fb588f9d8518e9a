# SPDX-License-Identifier: LGPL-2.1-only
"""The source of modules, read and parsed once for all tests that look into it."""

import ast
from functools import cache
from pathlib import Path

__all__ = ["nodes", "parsed"]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a module, in the order of `ast.walk`."""
    return tuple(ast.walk(parsed(path)))
