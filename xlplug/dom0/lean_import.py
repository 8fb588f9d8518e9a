# SPDX-License-Identifier: LGPL-2.1-only
"""Finds our own compiled modules with four system calls each, in the processes that must start fast; Python needs thirteen.

In a dom0 they are dear: Xen hands each one of a PV domain on.  A compiled module is taken only where Python would take it,
when it was made from this source by this Python.  Everything else is left to Python, which is asked next.
"""

import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER  # importlib itself loads warnings
from marshal import loads as unmarshal

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["install"]

_MOST = 1 << 16  # bytes of a compiled module; larger ones are left to Python
_Spec = type(__spec__)


def install() -> None:
    """Look for our modules from now on, unless this Python has compiled ones elsewhere (-O, PYTHONPYCACHEPREFIX)."""
    if not sys.flags.optimize and sys.pycache_prefix is None and Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


class Finder:
    """A finder and a loader, as importlib.abc has them."""

    @staticmethod
    def find_spec(name: str, path: "Sequence[str] | None" = None, target: object = None) -> "ModuleSpec | None":
        """The spec of a module within one of our packages; None where there is no compiled one that fits."""
        if path is None or not name.startswith("xlplug."):
            return None
        module = f"{path[0]}/{name.rpartition('.')[2]}"
        code, compiled = _code(*module.rsplit("/", 1))
        package = code is None
        if package:
            code, compiled = _code(module, "__init__")
        if code is None:
            return None
        origin = f"{module}/__init__.py" if package else f"{module}.py"
        loader: Any = Finder  # a class is as good as an object here, but typeshed wants its own
        spec = _Spec(name, loader, origin=origin, loader_state=code, is_package=package)
        spec.has_location, spec.cached = True, compiled
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(module)
        return spec

    @staticmethod
    def create_module(spec: "ModuleSpec") -> None:
        """Python makes it."""

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        """Run the module's code."""
        spec = module.__spec__
        if spec is not None:
            exec(spec.loader_state, vars(module))  # noqa: S102 - that is what importing is


def _code(folder: str, stem: str) -> tuple[object, str]:
    """The code of ``folder/stem.py`` and the compiled file that it is from; None where that does not fit.

    Source of the head: PEP 552.  Its flags are 0 where the time and the size of the source, 32 bits each, follow.
    """
    compiled = f"{folder}/__pycache__/{stem}.{sys.implementation.cache_tag}.pyc"
    try:
        source = os.stat(f"{folder}/{stem}.py")
        file = os.open(compiled, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(file, _MOST)
        finally:
            os.close(file)
    except OSError:
        return None, compiled
    numbers = (0, int(source.st_mtime), source.st_size)
    head = MAGIC_NUMBER + b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers)
    if len(data) == _MOST or not data.startswith(head):
        return None, compiled
    return unmarshal(memoryview(data)[16:]), compiled  # noqa: S302 - Python itself would do the same with it
