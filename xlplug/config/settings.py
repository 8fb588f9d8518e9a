# SPDX-License-Identifier: LGPL-2.1-only
"""The settings of one configuration, with xl's ways of reading them.  language.py fills them in."""

from collections.abc import Iterator

from xlplug.config.c_number import to_long
from xlplug.model.problem import Problem

__all__ = ["OURS", "Settings", "Value", "json_value"]

OURS = "xlplug_"  #: how the settings begin that are ours alone
Value = str | list["Value"]


class Settings:
    """The settings of one configuration, in order of first assignment, with xl's ways of reading them.

    A reader that finds the wrong form (a list for a string, no number) returns None and notes in `warnings` that xl
    ignores the option, as xl does.
    """

    def __init__(self, text: str, path: str, extra_at: int | None = None) -> None:
        self._text = text
        self._path = path
        self._extra_at = extra_at
        self._parts: dict[str, list[Value]] = {}  # a scalar in pieces, or one list
        self._lists: set[str] = set()
        self._at: dict[str, int] = {}
        self.appended: set[str] = set()
        self.warnings: list[Problem] = []

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> Value:
        parts = self._parts[name]
        if name in self._lists:
            return parts
        if len(parts) > 1:
            parts[:] = ["".join(part for part in parts if isinstance(part, str))]
        return parts[0]

    def items(self) -> Iterator[tuple[str, Value]]:
        """Names and values."""
        return ((name, self[name]) for name in self._parts)

    def place(self, at: int) -> tuple[str, int]:
        """The file, and the line from 1, of a byte; of xl's command line, which is appended, as a file of its own."""
        line = self._text.count("\n", 0, at) + 1
        if self._extra_at is None or at < self._extra_at:
            return self._path, line
        return "command line", line - self._text.count("\n", 0, self._extra_at)

    def assigned(self, name: str) -> tuple[str, int]:
        """The place of the last assignment to ``name``; line 0 when there is none."""
        at = self._at.get(name)
        return (self._path, 0) if at is None else self.place(at)

    def get_string(self, name: str) -> str | None:
        """A scalar, or None."""
        if name not in self._parts:
            return None
        if name in self._lists:
            self._ignored(name, "a list where a string is wanted")
            return None
        return str(self[name])

    def get_list(self, name: str) -> list[Value] | None:
        """A list, or None."""
        if name not in self._parts:
            return None
        if name not in self._lists:
            self._ignored(name, "a string where a list is wanted")
            return None
        return self._parts[name]

    def get_long(self, name: str, *, dont_warn: bool = False) -> int | None:
        """A number as strtol base 0 reads it into 64 signed bits, or None.

        A value last set by ``+=`` is never a number to libxlutil (xlu_cfg_get_long checks the assignment's operator).
        """
        if name not in self._parts:
            return None
        if name in self._lists:
            if not dont_warn:
                self._ignored(name, "a list where a number is wanted")
            return None
        number = None if name in self.appended else to_long(str(self[name]))
        if number is None and not dont_warn:
            self._ignored(name, "not a number")
        return number

    def _ignored(self, name: str, why: str) -> None:
        ends = "and xlplug ignores it" if name.startswith(OURS) else "and xl ignores it"
        self.warn(name, f"{why}, {ends}", code="XLP207")

    def warn(self, name: str, text: str, advice: str = "", *, code: str) -> None:
        """Note something of an option, once however often it is read."""
        path, line = self.assigned(name)
        problem = Problem(f"{path or 'config'}:{line}: {name}: {text}", advice, code)
        if problem not in self.warnings:
            self.warnings.append(problem)

    def assign(self, name: str, value: Value, at: int) -> None:
        """``=``, found at byte ``at``."""
        if isinstance(value, list):
            self._parts[name] = value
            self._lists.add(name)
        else:
            self._parts[name] = [value]
            self._lists.discard(name)
        self._at[name] = at
        self.appended.discard(name)

    def append(self, name: str, value: Value, at: int) -> bool:
        """``+=``; False when the kinds differ."""
        if name not in self._parts:
            self.assign(name, value, at)
        elif isinstance(value, list) != (name in self._lists):
            return False
        elif isinstance(value, list):
            self._parts[name] += value
        else:
            self._parts[name].append(value)
        self._at[name] = at
        self.appended.add(name)
        return True


def json_value(value: Value) -> str:
    """JSON text of a value, ASCII only, without recursion (the json module stops at about 1,000 levels)."""
    from json.encoder import encode_basestring_ascii as quote

    if isinstance(value, str):
        return quote(value)
    out = ["["]
    stack: list[Iterator[Value]] = [iter(value)]
    first = True
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            out.append("]")
            first = False
            continue
        if not first:
            out.append(", ")
        if isinstance(item, str):
            out.append(quote(item))
            first = False
        else:
            out.append("[")
            stack.append(iter(item))
            first = True
    return "".join(out)
