# SPDX-License-Identifier: LGPL-2.1-only
"""Closed, full and broken standard streams: real processes, with a shell's redirections."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.fakes import recorder
from xlplug import __main__
from xlplug.dom0 import streams
from xlplug.watch import daemon

ROOT = Path(__file__).parents[3]
GRANT = "grant 7 --recorded tests/recorded/domains/igd-laptop-stubdom"
PLAN = "plan examples/domain.cfg --host tests/recorded/hosts/igd-laptop.json"
LOST = "xlplug: warning: the output is lost from here on (No space left on device); the work goes on [XLP823]\n"
FULL = "xlplug: standard output: No space left on device; write it to where there is room [XLP822]\n"
#: With this set, Python does not keep what it could not write, and try again at its end.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
CLOSED = (">&-", "2>&-", "<&-", ">&- 2>&- <&-")


def run(words: str) -> tuple[int, str]:
    """Exit status and stderr of ``xlplug`` with words for the shell."""
    script = f"{sys.executable} -m xlplug {words}"
    done = subprocess.run(
        ["sh", "-c", script], cwd=ROOT, env=BUFFERED, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("redirection", [*CLOSED, "2>/dev/full", "| cat >/dev/full 2>/dev/null"])
def test_what_is_closed_changes_nothing(redirection: str) -> None:
    code, said = run(f"{PLAN} {redirection}")
    assert "Traceback" not in said
    assert code == (1 if "cat" in redirection else 0)  # of cat


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"{GRANT} >/dev/full", (0, LOST)),  # the exit code says what was changed
        (f"{GRANT} --format json >/dev/full", (0, LOST)),
        (f"{GRANT} >/dev/full 2>/dev/full", (0, "")),
        (f"{PLAN} >/dev/full", (1, FULL)),
        (f"{PLAN} --format json >/dev/full", (1, FULL)),
        ("config examples/domain.cfg >/dev/full", (1, FULL)),
        ("--help >/dev/full", (1, FULL)),
        ("plan --help >/dev/full", (1, FULL)),
        ("plan 2>&-", (2, "")),
        ("grant 0 2>/dev/full", (2, "")),
        ("--help | true", (0, "")),
    ],
)
def test_what_is_full(words: str, expected: tuple[int, str]) -> None:
    assert run(words) == expected


@pytest.mark.parametrize("redirection", CLOSED)
@pytest.mark.parametrize("config", ["plain", "json"])
def test_xl_finds_closed_what_it_would_have_found_closed(tmp_path: Path, redirection: str, config: str) -> None:
    """Through the front end alone, and through Python."""
    front, real = tmp_path / "front", tmp_path / "real"
    front.mkdir()
    real.mkdir()
    text = (ROOT / "hooks" / "xl").read_text().replace("\nxlplug=xlplug\n", f"\nxlplug={front}/xlplug\n")
    (front / "xl").write_text(text)
    (front / "xlplug").write_text(f'#!/bin/sh\nexec {sys.executable} -IS {front}/start.py "$@"\n')
    (front / "start.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom xlplug.__main__ import main; main()\n"
    )
    for name in ("xl", "xlplug"):
        (front / name).chmod(0o755)
    xl = recorder(real / "xl")
    (tmp_path / "plain.cfg").write_text('name="g"\n')
    (tmp_path / "json.cfg").write_text('name="g"\ntype="pv"\nioports=["2f8"]\n')
    found = []
    for path in (str(real), f"{front}:{real}"):
        script = f"xl create {config}.cfg {redirection}"
        done = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, env={"PATH": f"{path}:/usr/bin:/bin"})
        assert done.returncode == 0
        found.append(xl.read())
    assert found[0].fds == found[1].fds
    assert len(found[0].fds) < 3
    assert found[0].argv == found[1].argv


def test_a_terminal_that_hung_up(tmp_path: Path) -> None:
    """EIO, as after ssh has gone; SIGHUP is tried in tests/fault and in the lab."""
    ours, theirs = pty.openpty()
    script = f"trap '' HUP; read -r go; {sys.executable} -m xlplug {GRANT}; echo $? >{tmp_path}/code"
    process = subprocess.Popen(["sh", "-c", script], cwd=ROOT, env=BUFFERED, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"go\n")
    os.close(ours)
    process.wait()
    assert (tmp_path / "code").read_text() == "0\n"


def test_names_reach_no_terminal_raw(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hook, the wrapper and the daemon write to stderr, names of domains and files in it."""
    name = "g\x1b[31m\u202e\nq"
    streams.complain(f"warning: domain {name}: x")
    daemon._log(4, f"domain 7 ({name}): x")
    monkeypatch.setattr(daemon, "_IN_JOURNAL", True)
    daemon._log(4, f"domain 7 ({name}): x")
    streams.say(f"removed {name}")
    out, err = capsys.readouterr()
    assert err == (
        "xlplug: warning: domain g\\x1b[31m\\u202e q: x\nxlplug: domain 7 (g\\x1b[31m\\u202e q): x\n"
        "<4>domain 7 (g\\x1b[31m\\u202e q): x\n"
    )
    assert out == "removed g\\x1b[31m\\u202e\\nq\n"


def test_an_interrupt_while_modules_are_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "_run", interrupted)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "xlplug: interrupted; nothing was changed\n"
