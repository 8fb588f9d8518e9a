# SPDX-License-Identifier: LGPL-2.1-only
"""docs/errors.md and the package agree: each error has a code, each code an entry, each entry's words a message."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.sources import nodes
from xlplug.dom0.find_config import parse
from xlplug.dom0.recording import load_host
from xlplug.model import errors
from xlplug.model.problem import Problem
from xlplug.plan import build

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text()
#: Raised with the code of the problem that they carry, or shown again with the code that it has already.
_CARRIERS = {"Refused", "Problem"}


def modules() -> Iterator[tuple[Path, tuple[ast.AST, ...]]]:
    for path in sorted((ROOT / "xlplug").rglob("*.py")):
        yield path.relative_to(ROOT), nodes(path)


def name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def codes() -> set[str]:
    """Every code in the package."""
    found = set()
    for _, module in modules():
        for node in module:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^XLP\d{3}$", node.value))
    return found


def texts() -> list[str]:
    """Every string of the package, f-strings with a placeholder for each value."""
    found = []
    for _, module in modules():
        for node in module:
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def headings() -> list[tuple[str, str]]:
    return re.findall(r"(?m)^### (XLP\d{3}): (.+)$", PAGE)


def test_every_error_is_raised_with_a_code() -> None:
    coded = {name for name in errors.__all__ if getattr(getattr(errors, name), "code", "")}
    uncoded = {
        name
        for name in errors.__all__
        if isinstance(getattr(errors, name), type) and issubclass(getattr(errors, name), errors.XlplugError)
    } | {"ProgramError", "GuardLostError"}
    uncoded -= coded | _CARRIERS
    assert len(uncoded) > 5
    bare = [
        f"{path}:{node.lineno}"
        for path, module in modules()
        for node in module
        if isinstance(node, ast.Call) and name_of(node.func) in uncoded
        if "code" not in [keyword.arg for keyword in node.keywords]
    ]
    # The answer of another process, which has its code in its words already.
    assert [where for where in bare if not where.startswith("xlplug/watch/guard.py")] == []


def test_the_page_has_every_code_once_and_in_order() -> None:
    written = [code for code, _ in headings()]
    assert len(written) == len(re.findall(r"(?m)^### ", PAGE)), "a heading without a code"
    assert written == sorted(set(written))
    assert set(written) == codes()


def test_every_explained_message_exists() -> None:
    said = texts()
    for code, heading in headings():
        for message in re.findall(r"`([^`]+)`", heading):
            words = [w.strip(" '") for w in message.split("…") if w.strip(" '")]
            assert any(all(word in text for word in words) for text in said), f"{code}: no message says {message!r}"


def test_a_plan_gives_each_warning_and_refusal_a_code_and_no_note_one() -> None:
    seen = set()
    for path in sorted((ROOT / "tests" / "recorded" / "hosts").glob("*.json")):
        host = load_host(str(path))
        for device in host.devices:
            for gfx in ("0", "1", '"igd"'):
                text = (
                    f'type="hvm"\nmemory=512\ngfx_passthru={gfx}\nvga="stdvga"\nioports=["cf8","2f8-2ff","3c0-3c1"]\n'
                )
                plan = build(parse(f'{text}pci=["{device.bdf}"]\n'.encode(), "g.cfg"), host)
                assert all(problem.code for problem in (*plan.warnings, *plan.refusals)), (path.name, plan)
                assert not any(problem.code for problem in plan.notes), (path.name, plan.notes)
                seen |= {problem.code for problem in (*plan.warnings, *plan.refusals)}
    assert len(seen) > 15, seen


def test_the_code_is_the_end_of_the_line() -> None:
    assert str(Problem("it is torn", "repair it", "XLP999")) == "it is torn; repair it [XLP999]"
    assert str(Problem("it is torn", code="XLP999")) == "it is torn [XLP999]"
    assert str(Problem("it is torn", "repair it")) == "it is torn; repair it"


def test_an_error_has_the_code_of_its_class_or_its_own() -> None:
    assert str(errors.XenError("xc_domain_pause", 3, "domid=7")).endswith(" [XLP111]")
    assert str(errors.XenError("xc_domain_pause", 3, "domid=7", code="XLP112")).endswith(" [XLP112]")
    refused = errors.Refused(Problem("a", "b", "XLP301"), Problem("c", "d", "XLP302"))
    assert str(refused) == "refused: a; b (and 1 more: see 'xlplug plan') [XLP301]"
    left = errors.RollbackError("undone in part", ("ioport 3c0",), hint="run it again")
    assert str(left) == "undone in part; run it again; still in place: ioport 3c0 [XLP502]"
