# SPDX-License-Identifier: LGPL-2.1-only
"""Compiles and runs xlcfg_oracle.c, the real libxlutil."""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "xlcfg_oracle.c"


def require(name: str, missing: str) -> None:
    """Skip because ``missing`` is not here, or fail where XLPLUG_REQUIRE names ``name`` (CI: a skip is no pass)."""
    if name in os.environ.get("XLPLUG_REQUIRE", "").split(","):
        pytest.fail(f"required but not there: {missing}")
    pytest.skip(missing)


@cache
def binary() -> str | None:
    """Path of the compiled oracle, or None without a compiler or libxen-dev."""
    if shutil.which("gcc") is None or not Path("/usr/include/libxlutil.h").exists():
        return None
    path = Path(tempfile.mkdtemp()) / "oracle"
    command = ["gcc", "-O1", "-w", "-o", str(path), str(SOURCE), "-lxlutil", "-lxenlight"]
    subprocess.run(command, check=True, capture_output=True)
    return str(path)


def ask(records: list[tuple[str, bytes]]) -> list[str]:
    """One answer line for each (kind, data)."""
    path = binary()
    if path is None:
        require("abi", "gcc and libxen-dev (the real libxlutil) are not installed")
        raise AssertionError
    stream = b"".join(f"{kind} {len(data)}\n".encode() + data for kind, data in records)
    done = subprocess.run([path], input=stream, capture_output=True, check=True)
    lines = done.stdout.decode("latin-1").split("\n")[:-1]
    assert len(lines) == len(records)
    return lines
