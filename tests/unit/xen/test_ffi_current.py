# SPDX-License-Identifier: LGPL-2.1-only
"""The committed cffi module is what ``decl/*.h`` say."""

import importlib.util
from pathlib import Path

import pytest

import xlplug.xen


def test_the_generated_module_is_current(tmp_path: Path) -> None:
    if importlib.util.find_spec("cffi") is None or importlib.util.find_spec("pycparser") is None:
        pytest.fail("cffi and pycparser are needed to check the generated module: pip install cffi")
    from xlplug.xen import _build

    fresh = tmp_path / "_ffi.py"
    _build.generate(fresh)
    committed = Path(xlplug.xen.__file__).with_name("_ffi.py")
    assert committed.read_text() == fresh.read_text(), "stale: run 'python3 -m xlplug.xen._build' and commit the result"
