# SPDX-License-Identifier: LGPL-2.1-only
"""One total order of modules: each imports only what stands above it.  And who may import what from outside."""

import ast
from pathlib import Path

import xlplug

ROOT = Path(xlplug.__file__).parent
ORDER = """
    errors addr rangeset bdf grant host xlcfg pcispec domcfg hypervisor firmware
    vga igd pci_assign physmap plan facts checks
    populate apply journal publication session render memxen
    recording sysfs udev hostmem abi
    xen xen._ffi xen.protocols xen.mismatch xen.lib xen.qdump xen.ctrl xen.store xen.devicemodel xen._build live
    xlcmd become handover devmodel elf libvirt procs sources savefile stream hook guard watcher watch
    create commands install survey doctor argv _help cli __main__
""".split()
OWNERS = {
    "pyudev": {"udev"},
    "cffi": {"xen._build"},
    "_cffi_backend": {"xen._ffi"},
    "click": {"cli"},
    "elftools": {"elf"},
    "subprocess": set(),
    "ctypes": set(),
    "dataclasses": set(),
    "logging": set(),
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[str, Path]:
    return {name_of(path): path for path in ROOT.rglob("*.py") if name_of(path) != "__init__"}


def test_every_module_has_its_place() -> None:
    assert sorted(modules()) == sorted(ORDER)


def test_imports_go_upwards_only() -> None:
    wrong = []
    for name, path in modules().items():
        for target in imports(path):
            inner = target.removeprefix("xlplug.")
            if target.startswith("xlplug.") and inner in ORDER and ORDER.index(inner) >= ORDER.index(name):
                wrong.append(f"{name} imports {inner}")
    assert not wrong


def test_outside_modules_have_one_owner() -> None:
    for name, path in modules().items():
        for target in imports(path):
            owners = OWNERS.get(target.split(".")[0])
            assert owners is None or name in owners, f"{name} imports {target}"


def test_planning_and_data_touch_no_machine() -> None:
    pure = ORDER[: ORDER.index("populate")]
    for name in pure:
        outside = {target.split(".")[0] for target in imports(modules()[name])} - {"xlplug"}
        allowed = {"collections", "itertools", "typing", "re", "json", "errno"} | (
            {"os"} if name == "errors" else set()
        )
        assert outside <= allowed, f"{name} imports {outside - allowed}"
