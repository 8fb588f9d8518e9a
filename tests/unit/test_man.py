# SPDX-License-Identifier: LGPL-2.1-only
"""The manual pages as groff reads them, and completion as shells read it."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.abi.oracle import require
from tests.forked import xlplug
from xlplug.dom0.find_config import parse
from xlplug.dom0.recording import load_host
from xlplug.plan import build

ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        require("man", f"{name} is not installed")
    return str(path)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tool("scdoc")
    out = tmp_path_factory.mktemp("man")
    done = subprocess.run([sys.executable, "packaging/man.py", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return {path.name: path for path in out.iterdir()}


@functools.cache
def shown(page: Path) -> str:
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run([tool("man"), "-l", "--warnings", str(page)], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, ""), page
    return done.stdout


def commands() -> dict[str, object]:
    from xlplug.commands.cli import main

    return {name: command for name, command in main.commands.items() if not command.hidden}


def test_every_command_has_a_page_and_no_page_warns(pages: dict[str, Path]) -> None:
    prose = {"xlplug.8", "xlplug-hook.7", "xlplug.cfg.5"}
    assert set(pages) == prose | {f"xlplug-{name}.8" for name in commands()}
    for page in pages.values():
        text = shown(page)
        assert re.search(r"(?m)^EXAMPLES$|^COMMANDS$", text), f"{page.name} has no examples"
        assert re.search(r"(?m)^SEE ALSO$", text), page.name


def test_pages_say_what_help_says(pages: dict[str, Path]) -> None:
    for name in commands():
        done = xlplug(name, "--help")
        text = " ".join(shown(pages[f"xlplug-{name}.8"]).split())
        for option in set(re.findall(r"(?<=  )--[a-z-]+", done.stdout)) - {"--help"}:
            assert option in text, f"{name}: {option}"
    main = shown(pages["xlplug.8"])
    assert all(f"xlplug-{name}(8)" in main for name in commands())


def test_pages_name_pages_that_exist(pages: dict[str, Path]) -> None:
    for page in pages.values():
        for name, section in re.findall(r"\b(xlplug[\w.-]*)\((\d)\)", re.sub("[\u2010-]\n +", "-", shown(page))):
            assert f"{name}.{section}" in pages, f"{page.name} names {name}({section})"


def test_settings_page_has_every_key_of_ours(pages: dict[str, Path]) -> None:
    source = "".join(path.read_text() for path in (ROOT / "xlplug").rglob("*.py"))
    keys = set(re.findall(r'"(xlplug_[a-z_]+)"', source))
    assert keys >= {"xlplug_map_legacy", "xlplug_preload"}
    text = shown(pages["xlplug.cfg.5"])
    assert all(key in text for key in keys), keys


def test_example_configs_can_be_carried_out() -> None:
    source = (ROOT / "docs" / "man" / "xlplug.cfg.5.scd").read_text()
    examples = [text for text in re.findall(r"(?ms)^```\n(.*?)^```", source) if "type =" in text]
    assert len(examples) == 2
    host = load_host(str(ROOT / "tests" / "recorded" / "hosts" / "igd-laptop.json"))
    for text in (*examples, (ROOT / "examples" / "domain.cfg").read_text()):
        plan = build(parse(text.encode(), "example"), host)
        assert plan.steps
        assert plan.refusals == (), text


def test_commands_of_the_examples_are_ours(pages: dict[str, Path]) -> None:
    known = set(commands())
    for source in (ROOT / "docs" / "man").rglob("*.scd"):
        for word in re.findall(r"(?m)^[#$] xlplug ([a-z-]+)", source.read_text()):
            assert word in known, f"{source.name}: xlplug {word}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_completes(shell: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "packaging/completion.py", str(tmp_path)], cwd=ROOT, check=True)
    script = next((tmp_path / shell).iterdir())
    subprocess.run([tool(shell), "-n", str(script)], check=True)
    if shell == "bash":
        program = tmp_path / "xlplug"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m xlplug "$@"\n')
        program.chmod(0o755)
        ask = (
            f". {script}; COMP_WORDS=(xlplug hook un); COMP_CWORD=2; _xlplug_completion {program};"
            ' echo "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.strip() == "uninstall", done.stderr


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("xlplug plan exa", "file,exa"),
        ("xlplug create exa", "file,exa"),
        ("xlplug plan --host exa", "file,exa"),
        ("xlplug map exa", "file,exa"),
        ("xlplug grant 7 --dr", "plain,--dry-run"),
        ("xlplug abi --format ", "plain,text\nplain,json"),
    ],
)
def test_what_is_completed(words: str, answer: str) -> None:
    """Numbers and names of domains are completed in the lab: tests/lab/dom0/test_package.py."""
    env = {**os.environ, "_XLPLUG_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = xlplug(env=env)
    assert done.stdout == answer + "\n", done.stderr
