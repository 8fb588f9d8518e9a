# SPDX-License-Identifier: LGPL-2.1-only
"""The short way to ``json.loads``, held to the real one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from xlplug.model import lean_json

ROOT = Path(__file__).parents[3]
TEXTS = [
    b"", b" ", b"1", b" \t\r\n[1, 2.5, -3e2]\n ", b'{"a": {"b": [true, false, null]}}', b'{"a": 1, "a": 2}', b"NaN",
    b"[Infinity, -Infinity]", b'"\\u00e9\\ud83d\\ude00"', b'"\\ud800"', '"é"'.encode(), '"é"'.encode("latin-1"), b'"\xed\xa0\x80"',
    b"\xef\xbb\xbf[]", "[1]".encode("utf-16"), "[1]".encode("utf-16-le"), "7".encode("utf-16-le"), "[1]".encode("utf-32"),
    b"-", b"[1,]", b"{1: 2}", b'{"a" 1}', b'"a\nb"', b"[1] x", b"[1]\0", b"\x0b1", b"1\xc2\xa0", b"\xc2\xa01", b"01", b"1.",
    b"1e999", b"9" * 5000, b"[" * 200_000,
]  # fmt: skip


def outcome(loads: object, data: bytes) -> str:
    try:
        return repr(loads(data))  # type: ignore[operator]
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("data", TEXTS, ids=lambda data: repr(data[:30]))
def test_the_same_value_or_the_same_error(data: bytes) -> None:
    assert outcome(lean_json.loads, data) == outcome(json.loads, data)


def test_what_is_wrong_where_json_is_not_loaded() -> None:
    texts = [b"[1", b'{"a', b"{", b'"abc', b'{"a" 1}', b'"\\u12', b'"\x01"', b"[1 2]", b""]
    lines = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})",
        "from xlplug.model import lean_json",
        f"for text in {texts!r}:",
        "    for name in [name for name in sys.modules if name.startswith('json')]: del sys.modules[name]",
        "    try: lean_json.loads(text)",
        "    except ValueError as error: print(f'{type(error).__name__}: {error}')",
    ]
    command = [sys.executable, "-IS", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [outcome(json.loads, text) for text in texts]


def test_damaged_recordings() -> None:
    rng = random.Random(14)
    whole = (ROOT / "tests" / "recorded" / "hosts" / "igd-laptop.json").read_bytes()
    assert lean_json.loads(whole) == json.loads(whole)
    for _ in range(300):
        at = rng.randrange(len(whole))
        data = whole[:at] + rng.choice([b"", b"\0", b'"', b"]", b"}", b",", b"\\", b"1", b"\xff"]) + whole[at + 1 :]
        assert outcome(lean_json.loads, data) == outcome(json.loads, data)


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        ("", "", False),
        ("sys.modules['_json'] = None", "", True),  # another kind of Python
        ("", "del lean_json._Decoder.strict", True),  # a later one, whose scanner asks its decoder for more
    ],
)
def test_json_is_asked_where_the_scanner_does_not_do(before: str, after: str, asked: bool) -> None:
    lines = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})",
        before,
        "from xlplug.model import lean_json",
        after,
        "print(lean_json.loads(b'[1, {}]'), 'json' in sys.modules)",
    ]
    command = [sys.executable, "-IS", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"[1, {{}}] {asked}\n"
