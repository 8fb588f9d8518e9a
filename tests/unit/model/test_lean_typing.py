# SPDX-License-Identifier: LGPL-2.1-only
"""The stand-in for typing, held to the real one."""

import pickle
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from xlplug.model import lean_typing

ROOT = Path(__file__).parents[3]
VALUE = '''
class Value(NamedTuple):
    """A value."""

    first: int
    second: str = "s"
    third: tuple[int, ...] | None = None

    @property
    def twice(self) -> int:
        return 2 * self.first

    def __str__(self) -> str:
        return f"<{self.first}>"
'''
CALLS = [
    "Value(1)", "Value(1, 't')", "Value(1, 't', (1, 2))", "Value(first=3)", "Value(1, third=(4,))", "Value(third=(), first=2)",
    "str(Value(1))", "Value(1).twice", "Value(1)._replace(second='x', third=())", "Value(1)._asdict()", "Value._make([1, 2, 3])",
    "Value(1) == (1, 's', None)", "hash(Value(1)) == hash((1, 's', None))", "sorted([Value(2), Value(1)])", "Value(1) + (2,)",
    "Value._fields", "Value._field_defaults", "Value.__match_args__", "Value.__doc__", "Value.__name__", "len(Value(1))",
    "Value(*(1, 2, 3))", "[*Value(1)]", "Value(1)[1:]", "isinstance(Value(1), tuple)", "Value.__annotations__", "Value(1).third",
    "Value(first=1, second='a', third=None)",
]  # fmt: skip
WRONG = [
    "Value()", "Value(1, 2, 3, 4)", "Value(second='x')", "Value(1, first=1)", "Value(1, fourth=2)", "Value(1)._replace(fourth=1)",
    "Value._make([1])", "setattr(Value(1), 'first', 2)", "Value(1).fourth", "setattr(Value(1), 'fourth', 2)",
]  # fmt: skip


def made_with(named_tuple: object) -> dict[str, typing.Any]:
    names: dict[str, typing.Any] = {"NamedTuple": named_tuple, "__name__": __name__}
    exec(VALUE, names)
    return names


REAL, LEAN = made_with(typing.NamedTuple), made_with(lean_typing.NamedTuple)


@pytest.mark.parametrize("call", CALLS)
def test_a_named_tuple_is_one(call: str) -> None:
    assert repr(eval(call, LEAN)) == repr(eval(call, REAL))


@pytest.mark.parametrize("call", WRONG)
def test_what_is_wrong_with_it(call: str) -> None:
    with pytest.raises(Exception) as real:
        eval(call, REAL)
    with pytest.raises(type(real.value)):
        eval(call, LEAN)


def test_it_can_be_matched_and_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "Value", LEAN["Value"], raising=False)
    value = LEAN["Value"](7)
    assert pickle.loads(pickle.dumps(value)) == value
    assert type(pickle.loads(pickle.dumps(value))) is type(value)
    Value = LEAN["Value"]  # noqa: N806 - a pattern needs a class's name
    match value:
        case Value(first, second="s"):
            assert first == 7
        case _:
            pytest.fail("not matched")


def test_the_rest_is_the_real_ones() -> None:
    code = """
import sys
from xlplug.model import lean_typing
lean_typing.install()
import typing
assert typing is lean_typing
from typing import Any, NamedTuple, Protocol, cast
from collections.abc import Mapping
assert not {"re", "collections"} & sys.modules.keys()
from typing import get_type_hints
import collections.abc
assert collections.abc.Mapping is Mapping
assert sys.modules["typing"] is not lean_typing and get_type_hints.__module__ == "typing"
lean_typing.install()
assert sys.modules["typing"] is not lean_typing, "who comes first stays"
"""
    subprocess.run([sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{code}"], check=True)


@pytest.mark.parametrize("words", [[], ["--map-legacy"], ["--dry-run"]])
@pytest.mark.parametrize("name", ["igd-laptop", "igd-laptop-stubdom"])
def test_the_same_grants_with_and_without(name: str, words: list[str]) -> None:
    """The whole way through: config, recording, plan, journal, hypercalls in memory."""
    run = f"import sys; sys.path.append({str(ROOT)!r}); %s; from xlplug.__main__ import main; main()"
    outputs = []
    for first in ("import typing", "pass"):
        command = [sys.executable, "-IS", "-c", run % first, "grant", "7", "--recorded"]
        done = subprocess.run(
            [*command, str(ROOT / "tests" / "recorded" / "domains" / name), *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout + done.stderr)
    assert outputs[0] == outputs[1]
