# SPDX-License-Identifier: LGPL-2.1-only
"""Linters are tests: one command, one verdict."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.abi.oracle import require

ROOT = Path(__file__).parents[2]
SHELL = [
    str(ROOT / name)
    for name in (
        ".ci/run",
        "hooks/xl",
        "debian/xlplug.prerm",
        "debian/xlplug.postrm",
        "debian/tests/hook",
        "debian/tests/recorded",
    )
]
SHELL += [str(p) for p in sorted((*ROOT.glob("tests/**/*.sh"), *ROOT.glob("packaging/*.sh")))]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "xlplug", "tests", "benchmarks", "docs", "packaging"],
        ["ruff", "format", "--check", "xlplug", "tests", "benchmarks", "docs", "packaging"],
        ["mypy"],
        ["shellcheck", *SHELL],
    ],
    ids=lambda c: " ".join(c[:2]) if c[0] == "ruff" else c[0],
)
def test_clean(command: list[str]) -> None:
    beside = Path(sys.executable).with_name(command[0])
    tool = str(beside) if beside.exists() else shutil.which(command[0])
    if tool is None:
        require("lint", f"{command[0]} is not installed")
    done = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
