# SPDX-License-Identifier: LGPL-2.1-only
"""Exec from Python, compared with exec from a shell: nothing of Python may be left."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.fakes import recorder

BECOME = "import sys; from xlplug.hook.become import become; become(sys.argv[1], ['p', *sys.argv[2:]], {'GONE': None, 'NEW': 'n'})"


@pytest.mark.parametrize(
    "environment", [{}, {"LC_ALL": "C"}, {"LC_CTYPE": "C"}, {"LANG": "C.UTF-8", "X": "\udcff", "E": ""}]
)
def test_nothing_of_python_is_left(tmp_path: Path, environment: dict[str, str]) -> None:
    target = recorder(tmp_path / "program")
    before = environment | {"GONE": "g", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", BECOME, target.path, "a b", "", "-c"], env=before, check=True)
    record = target.read()
    assert record.argv == [target.path, "a b", "", "-c"]
    del before["GONE"]
    assert record.environment == before | {"NEW": "n"}
    assert record.ignored == 0
    assert record.blocked == 0
    assert record.fds == [0, 1, 2]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    target = recorder(tmp_path / "program")
    line = f"trap '' HUP INT; exec {sys.executable} -c \"{BECOME}\" {target.path}"
    subprocess.run(["sh", "-c", line], env={"PYTHONPATH": ":".join(sys.path)}, check=True)
    assert target.read().ignored == 1 << 0 | 1 << 1


def test_a_program_that_cannot_be_executed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BECOME, "/nowhere"],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "FileNotFoundError" in done.stderr
