# SPDX-License-Identifier: LGPL-2.1-only
"""Our finder of modules beside Python's own: the same specs and the same code, or none."""

import importlib.machinery
import os
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xlplug
from xlplug.dom0 import lean_import
from xlplug.dom0.lean_import import Finder

ROOT = Path(xlplug.__file__).parent


def names() -> Iterator[tuple[str, list[str]]]:
    """Every module of ours within a package, with the path of that package."""
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if len(parts) > 1:
            yield ".".join(parts), [str(ROOT.parent.joinpath(*parts[:-1]))]


def test_every_module_is_found_as_python_finds_it() -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT)], check=True)
    count = 0
    for name, path in names():
        mine, real = Finder.find_spec(name, path), importlib.machinery.PathFinder.find_spec(name, path)
        assert mine is not None, name
        assert real is not None
        assert isinstance(real.loader, importlib.machinery.SourceFileLoader)
        for what in ("name", "origin", "cached", "has_location", "submodule_search_locations", "parent"):
            assert getattr(mine, what) == getattr(real, what), (name, what)
        assert mine.loader_state == real.loader.get_code(name)
        count += 1
    assert count > 100


def package(folder: Path, text: str = "value = 1\n") -> tuple[Path, list[str]]:
    """A module ``xlplug.it`` with its compiled file, and the path of its package."""
    source = folder / "it.py"
    source.write_text(text)
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP, doraise=True)
    return source, [str(folder)]


def found(path: list[str]) -> object:
    return Finder.find_spec("xlplug.it", path)


def test_a_compiled_file_of_another_source_is_left_to_python(tmp_path: Path) -> None:
    source, path = package(tmp_path)
    assert found(path)
    now = source.stat().st_mtime
    os.utime(source, (now + 1, now + 1))
    assert not found(path)
    os.utime(source, (now, now))
    assert found(path)
    source.write_text("value = 12\n")
    os.utime(source, (now, now))
    assert not found(path), "of another size"
    source.unlink()
    assert not found(path)


@pytest.mark.parametrize("at", [0, 4])  # of another Python; with a hash of the source in the place of its time
def test_so_is_one_with_another_head(tmp_path: Path, at: int) -> None:
    _, path = package(tmp_path)
    compiled = next((tmp_path / "__pycache__").iterdir())
    data = bytearray(compiled.read_bytes())
    data[at] ^= 1
    compiled.write_bytes(data)
    assert not found(path)


def test_so_are_large_ones_and_those_that_are_not_compiled_nor_ours(tmp_path: Path) -> None:
    _, path = package(tmp_path, f"value = {'x' * 70_000!r}\n")
    assert not found(path)
    next((tmp_path / "__pycache__").iterdir()).unlink()
    assert not found(path)
    _, path = package(tmp_path)
    assert not Finder.find_spec("it", path)
    assert not Finder.find_spec("xlplug", None)


@pytest.mark.parametrize("options", [["-O"], ["-X", "pycache_prefix=/nowhere"], []])
def test_it_is_not_used_where_compiled_files_are_elsewhere(options: list[str]) -> None:
    code = "import sys; from xlplug.dom0 import lean_import as it; it.install(); it.install()\n"
    code += "from xlplug.model import bdf; print(sys.meta_path.count(it.Finder), type(bdf.__loader__).__name__, bdf.__file__)"
    done = subprocess.run(
        [sys.executable, "-B", *options, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True
    )
    loader = "0 SourceFileLoader" if options else "1 type"
    assert done.stdout == f"{loader} {ROOT}/model/bdf.py\n"
    assert lean_import.Finder not in sys.meta_path
