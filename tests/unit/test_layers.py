# SPDX-License-Identifier: LGPL-2.1-only
"""The floors of the house: a module imports from its own floor and from those above it, never in a circle."""

import ast
import functools
import re
from graphlib import TopologicalSorter
from pathlib import Path

import xlplug
from tests.sources import nodes

ROOT = Path(xlplug.__file__).parent
LAYERS = "model config policy picture xen dom0 execute delegate hook abi audit watch doctor commands".split()
PURE = LAYERS[: LAYERS.index("xen")]
OWNERS = {
    "pyudev": {"dom0.udev"},
    "cffi": {"xen._build"},
    "_cffi_backend": {"xen._ffi"},
    "click": {"commands.cli", "commands.cli_hook", "commands.click_group", "commands.completion"},
    "elftools": {"abi.elf"},
    "rich": {"picture.terminal"},
    "subprocess": set(),
    "ctypes": set(),
    "dataclasses": set(),
    "logging": set(),
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for path in ROOT.rglob("*.py") if name_of(path) != "__init__"}


def ours(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    return {name for target in imports(path) if (name := target.removeprefix("xlplug.")) in modules()}


def layer(module: str) -> int:
    head = module.split(".")[0]
    return LAYERS.index(head if head in LAYERS else "commands" if head == "__main__" else "policy")


def test_imports_go_up() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in ours(path)
        if layer(target) > layer(name)
    ]
    assert not wrong


def test_nothing_imports_itself_in_a_circle() -> None:
    """Not even through a function's own import; a room's ``__init__`` is the room's door and may look inside."""
    rooms = set(LAYERS)
    TopologicalSorter({name: ours(path) - rooms for name, path in modules().items() if name not in rooms}).prepare()


def test_the_map_is_true() -> None:
    assert re.findall(r"(?m)^    (\w+) ", xlplug.__doc__ or "") == LAYERS
    assert {name.split(".")[0] for name in modules() if "." in name} == set(LAYERS) - {"policy"}
    policy = re.search(r"(?m)^    policy .*: ((?:\w+\.py\s+)+)", xlplug.__doc__ or "")
    assert policy is not None
    alone = {f"{name}.py" for name in modules() if "." not in name and name not in LAYERS}
    assert set(policy[1].split()) == alone - {"__main__.py"}


def test_outside_modules_have_one_owner() -> None:
    for name, path in modules().items():
        for target in imports(path):
            owners = OWNERS.get(target.split(".")[0])
            assert owners is None or name in owners, f"{name} imports {target}"


def test_planning_and_data_touch_no_machine() -> None:
    for name, path in modules().items():
        if layer(name) >= len(PURE):
            continue
        outside = {target.split(".")[0] for target in imports(path)} - {"xlplug"}
        allowed = {"bisect", "collections", "itertools", "typing", "re", "json", "errno"} | (
            {"os"} if name == "model.errors" else set()
        )
        outside -= {"html", "rich"} if name.startswith("picture.") else set()
        outside -= {"sys", "_collections", "_collections_abc"} if name == "model.lean_typing" else set()
        outside -= {"_json"} if name == "model.lean_json" else set()
        outside -= {"xml"} if name == "config.from_libvirt" else set()
        assert outside <= allowed, f"{name} imports {outside - allowed}"


def test_modules_and_functions_are_small() -> None:
    """As CONTRIBUTING.md says."""
    for path in modules().values():
        assert len(path.read_text().splitlines()) <= 350, path
        for node in nodes(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert (node.end_lineno or 0) - node.lineno < 45, f"{path}: {node.name}"
