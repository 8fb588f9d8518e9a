# SPDX-License-Identifier: LGPL-2.1-only
"""Turn each comparison and each condition of policy and execution round, one at a time, and see that a test fails.

    python3 -m tests.mutants [MODULE...]        such as plan or execute.grants; exit status 1 when one survives

Own code and no library: mutmut and cosmic-ray copy the tree and start Python anew for each mutant, which takes an hour here.  This
forks a process that has pytest loaded already, and puts the changed module in its place before any test imports it.

`EQUIVALENT` names those that no test can see, with the reason.
"""

import ast
import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jsonschema  # noqa: F401 - here, once, and not in each process
import pytest

ROOT = Path(__file__).parents[1]
POLICY = "vga vga_owner igd registers displays ports pci_assign hide_at_boot physmap obstacles plan".split()
EXECUTION = [
    f"execute.{name}"
    for name in "apply compare grants journal populate preload_nodes revokes settle signals sole_vga".split()
]
TESTS = {**dict.fromkeys(POLICY, "tests/unit/policy"), **dict.fromkeys(EXECUTION, "tests/unit/execute")}
TIMEOUT = 300  # seconds: a condition turned round may loop for ever

_OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip

#: (module, change, the line's text): why the mutant cannot be seen.
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "plan", "GtE -> Gt",
        "end = next((i for i in range(at, len(mine)) if mine[i].range.start >= span.stop), len(mine))",
    ): "ranges that touch are one span, so none of the others starts where it stops",
}  # fmt: skip


class Mutant(NamedTuple):
    """One change: which of a module's places, where that is, and what it becomes."""

    module: str
    place: int
    line: int
    change: str

    @property
    def text(self) -> str:
        return source_of(self.module).read_text().splitlines()[self.line - 1].strip()

    def __str__(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line}: {self.change}: {self.text}"


def source_of(module: str) -> Path:
    return ROOT / "xlplug" / f"{module.replace('.', '/')}.py"


class _Change(ast.NodeTransformer):
    """Counts the places that can be turned round, and turns the ``wanted`` one."""

    def __init__(self, wanted: int = -1) -> None:
        self.wanted = wanted
        self.places: list[tuple[int, str]] = []

    def _here(self, node: ast.expr, change: str) -> bool:
        self.places.append((node.lineno, change))
        return len(self.places) - 1 == self.wanted

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for i, operator in enumerate(node.ops):
            other = _OPPOSITE[type(operator)]
            if self._here(node, f"{type(operator).__name__} -> {other.__name__}"):
                node.ops[i] = other()  # type: ignore[call-overload]
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        other = _OPPOSITE[type(node.op)]
        if self._here(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()  # type: ignore[assignment]
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not) and self._here(node, "not dropped"):
            return self.visit(node.operand)
        return self.generic_visit(node)


def mutants(module: str) -> list[Mutant]:
    change = _Change()
    change.visit(ast.parse(source_of(module).read_text()))
    return [Mutant(module, place, line, text) for place, (line, text) in enumerate(change.places)]


class _Changed(MetaPathFinder, Loader):
    """Gives one module its changed code."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == f"xlplug.{self.mutant.module}" else None

    def exec_module(self, module: ModuleType) -> None:
        path = source_of(self.mutant.module)
        tree = _Change(self.mutant.place).visit(ast.parse(path.read_text()))
        exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)


def tests_for(module: str) -> list[str]:
    """The folder's tests, and before them those in the file of the module's name: most mutants end there."""
    folder = ROOT / TESTS[module]
    own = folder / f"test_{module.rpartition('.')[2]}.py"
    return [str(path) for path in (own, folder) if path.exists()]


def survives(mutant: Mutant) -> bool:
    """Whether all tests pass.  In a process of its own, which ends with it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0
    import signal

    signal.alarm(TIMEOUT)
    sys.meta_path.insert(0, _Changed(mutant))
    code = 1
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(BaseException):
        for tests in tests_for(mutant.module):
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", tests]))
            if code:
                break
    os._exit(code)


def run(modules: list[str]) -> Iterator[tuple[Mutant, bool]]:
    for module in modules:
        for mutant in mutants(module):
            yield mutant, survives(mutant)


def main(modules: list[str]) -> int:
    count, left = 0, []
    for mutant, alive in run(modules or [*POLICY, *EXECUTION]):
        count += 1
        if alive and (mutant.module, mutant.change, mutant.text) not in EQUIVALENT:
            left.append(mutant)
            print(f"survived: {mutant}", flush=True)
    print(f"{count} mutants, {len(left)} survived, {len(EQUIVALENT)} are known to be equivalent")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
