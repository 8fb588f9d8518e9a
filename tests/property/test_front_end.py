# SPDX-License-Identifier: LGPL-2.1-only
"""The front end may leave a creation to xl only where Python would: its shell against our own reader of configs."""

import json
import random
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.examples import examples
from tests.property.test_xlcfg_oracle import ROWS
from xlplug.config.xl_command_line import parse_create
from xlplug.dom0.find_config import parse, read_as_xl
from xlplug.model.errors import ConfigError

FRONT_END = (Path(__file__).parents[2] / "hooks" / "xl").read_text()
COUNT = examples(500, 10_000)

NAMES = [
    b"gfx_passthru",
    b"ioports",
    b"xlplug_map_legacy",
    b"xlplug_preload",
    b"xlplug_delegate",
    b"device_model_args",
    b"device_model_args_hvm",
]
#: What makes a plan, and what nearly does; {} is one of the names.
LINES = [
    b"{}=1", b'{}="igd"', b"{}='default'", b"{}=0", b'{}=["2f8"]', b'{}=["2f8-2ff",]', b"{}=[\n'2f8'\n]", b'{}+=["2f8"]',
    b'{}=["-machine","igd-passthru=on"]', b'{}=["-machine","pc,igd-passthru=on,x"]', b'{}=["-machine","igd\\7 1-passthru=on"]',
    b'{}=["-machine","igd\\07-passthru=on"]', b'{}=["-machine", "\\101igd-passthru=on"]', b'{}=["-machine"]', b"#{}=1",
    b'x="{}=1"', b"{}\t=\t1 # c", b"x=1;{}=1;y=2", b"{} \\\n=1", b"x='{'", b"x='\\\\'", b"x=1", b"# {", b"x=1\r",
    b'{}=["03:00.0"]', b'xlplug_delegate=["03:00.0,vslot=1d"]', b'xlplug_delegate=["03:00.0"]', b"xlplug_delegate=['04:00.1']",
]  # fmt: skip
KINDS = [b'type="hvm"', b"type='hvm'", b"type='h'", b'type=""', b'builder="hvm"', b'type="hvm"', b'type="pv"']
ARGUMENTS = ["memory=64", "x='a b'", "gfx_passthru=1", "gfx_passthru=0", 'ioports=["2f8"]', "ioports += ['2f8']",
             "a=1\ngfx_passthru=1",
             'device_model_args=["-machine","igd-passthru=on"]', 'device_model_args+=["igd-passthru=on"]', "xlplug_preload=1",
             "type='hvm'", "x='\\\\'", "=", "-x=1"]  # fmt: skip
OPTIONS = ["-p", "-c", "-pq", "-n", "--dryrun", "-e", "-V", "-F", "--quiet", "-d", "-pF"]
LEGACY = {"c_info": {"type": "hvm"}, "b_info": {"type.hvm": {"gfx_passthru": "True", "gfx_passthru_kind": "igd"}}}


def config(rng: random.Random) -> bytes:
    if rng.random() < 0.08:
        text = json.dumps(LEGACY)
        if rng.random() < 0.5:
            text = text.replace("gfx_", rng.choice(["\\u0067fx_", "gfx\\u005f", "gfx_"]))
        return b" " * rng.randrange(2) + text.encode(rng.choice(["utf-8", "utf-16-le", "utf-32-le", "utf-8"]))
    lines = [rng.choice(LINES).replace(b"{}", rng.choice(NAMES)) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
    lines.append(rng.choice(KINDS))
    if rng.random() < 0.05:
        lines.append(rng.choice(ROWS))
    rng.shuffle(lines)
    data = rng.choice([b"\n", b"\n", b";", b"\n\n"]).join(lines) + rng.choice([b"\n", b"", b"!", b"\0"])
    if rng.random() < 0.1:  # a slip of the hand
        at = rng.randrange(len(data) + 1)
        data = (
            data[:at]
            + rng.choice([b"\0", b"\\", b"\\\n", b" ", b"#", b"\n", b"\xff", b"{", b'"', b""])
            + data[at + 1 :]
        )
    return data


def command_line(rng: random.Random, file: str) -> list[str]:
    other = rng.choice(["plain", "none", "-", "--", "."])
    options = rng.choices(OPTIONS, k=rng.choice([0, 0, 1, 2]))
    words = rng.choice(
        [[file, *options], [file, *options], [*options, file], [*options, "-f", file], [f"-f{file}"], ["--defconfig", file],
         [f"--defconfig={file}"], [f"--def={file}"], ["-pf", file], [other, "-f", file], [file, "-f", other], [file, other],
         ["x=1", file], ["-f", other, "--defconfig", file], ["--", file], [f"./{file}"],
         ["-p", "--", file], [file, "-p", "x=1", "-c"]]
    )  # fmt: skip
    words += rng.choices(ARGUMENTS, k=rng.choice([0, 0, 0, 1, 2]))
    if rng.random() < 0.05:
        rng.shuffle(words)
    return words


def wants(words: list[str]) -> bool | None:
    """What Python finds: whether the wrapper is needed; None where xl itself will refuse, or create nothing."""
    asked = parse_create(words)
    data = None if asked is None or asked.dry_run else read_as_xl(asked.path)
    if asked is None or data is None:
        return None
    try:
        return parse(data, asked.path, asked.extra).wants_legacy
    except ConfigError:
        return None


def needs_nothing() -> str:
    """The function of that name, as the front end has it."""
    function = re.search(r"(?ms)^needs_nothing\(\) \{$.*?^\}$", FRONT_END)
    assert function is not None
    return function[0]


def left_to_xl(cases: list[list[str]], shell: str = "sh") -> list[bool]:
    """What the front end's own function says of each command line; one shell for them all."""
    script = ["set -f", needs_nothing()]
    script += [f"if needs_nothing 1 {shlex.join(words)}; then echo xl; else echo python; fi" for words in cases]
    done = subprocess.run([shell], input="\n".join(script).encode(), capture_output=True)
    assert done.stderr == b""
    answers = done.stdout.decode().split()
    assert len(answers) == len(cases)
    return [answer == "xl" for answer in answers]


def test_what_needs_grants_is_never_left_to_xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(14)
    monkeypatch.chdir(tmp_path)
    Path("plain").write_bytes(b'name="g"\n')
    needing, others = [], []
    for number in range(COUNT):
        file = f"c{number}"
        Path(file).write_bytes(config(rng))
        words = command_line(rng, file)
        (needing if wants(words) else others).append(words)
    assert len(needing) > COUNT // 8, "too few that put the shell to the test"
    wrong = [words for words, left in zip(needing, left_to_xl(needing), strict=True) if left]
    assert wrong == []
    # And it is of use: much of what needs nothing, and is not odd, costs no Python.
    some = others[:500]
    assert sum(left_to_xl(some)) > len(some) // 10


def test_the_parsers_own_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row with a display behind it, before it and inside it."""
    monkeypatch.chdir(tmp_path)
    hvm, display = b'type="hvm"\n', b"gfx_passthru=1\n"
    cases = []
    for number, row in enumerate(ROWS):
        middle = len(row) // 2
        for place, data in enumerate(
            (row + b"\n" + display, display + row, row[:middle] + display + row[middle:], row)
        ):
            file = f"r{number}-{place}"
            Path(file).write_bytes(hvm + data)
            cases.append([file])
    needing = [words for words in cases if wants(words)]
    assert len(needing) > len(ROWS)
    assert not any(left_to_xl(needing))
