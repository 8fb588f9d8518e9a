# SPDX-License-Identifier: LGPL-2.1-only
"""What to do about a configuration that xl would not parse either.  Pure, and imported only when there is an error."""

import re
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["for_byte", "for_token"]

PYTHON_ADVICE = "this looks like an old Python xend config; write plain name = value lines"
_HEX = "0123456789abcdefABCDEFx"
_PYTHON_WORDS = ("import", "from", "def", "if", "for", "while", "print", "class", "try")


def is_python(line: str) -> bool:
    """Whether a line begins as a statement of Python does: xend's configurations were programs."""
    words = line.split()
    return bool(words) and words[0] in _PYTHON_WORDS


def for_token(text: str, before: str, line: str, wanted: str) -> str:
    """Advice for a token that is in the wrong place: its text, the value before it ("" for none), its line, what is wanted."""
    if is_python(line) or "(" in line:
        return PYTHON_ADVICE
    if "']'" in wanted:
        return "put a comma between the items of a list, and ] behind the last one"
    if before.isdecimal() and text[:1].isalpha():
        return f'put quotes around it, or write the unit out: "{before}{text}" is not a number to xl'
    if text[:1].isalpha() and set(text) <= set("0123456789abcdefx"):
        return f'hexadecimal that begins with a letter needs quotes or 0x: "{text}"'
    if text[:1].isalpha():
        return f'put quotes around it: "{text}"'
    return "one setting a line: name = value"


def for_byte(text: str, pos: int, line: str, column: int) -> str:
    """Advice for a byte that begins no token; ``column`` is its place in its line, from 1."""
    spot = _Spot(text, pos, line, column)
    if spot.char == "-" and (ports := _ports(line[: column - 1] + _word(spot.rest))):
        return f'put quotes around it: "{ports}"'
    return next(advice for fits, advice in _BYTES if fits(spot))


def _ports(text: str) -> str:
    """The range of hexadecimal numbers that ends the text; "" for none.  From the end: a search would try at every digit."""
    before, _, last = text.rpartition("-")
    first = before[len(before.rstrip(_HEX)) :]
    return f"{first}-{last}" if first and last and not last.strip(_HEX) else ""


def _word(text: str) -> str:
    """Up to the first character that no range of hexadecimal numbers has."""
    return re.match(r"[0-9a-fA-Fx-]*", text)[0]  # type: ignore[index] # it matches the empty text too


class _Spot(NamedTuple):
    """A byte that begins no token: the whole text, its place, and the line that it is on."""

    text: str
    pos: int
    line: str
    column: int

    @property
    def char(self) -> str:
        return self.text[self.pos]

    @property
    def rest(self) -> str:
        """The line from the byte on."""
        return self.line[self.column - 1 :]

    @property
    def before(self) -> str:
        """The line up to the byte, without blanks around it."""
        return self.line[: self.column - 1].strip()

    @property
    def after_digit(self) -> bool:
        return self.pos > 0 and self.text[self.pos - 1] in "x0123456789ABCDEFabcdef"


#: What a byte that begins no token probably is, and the advice for it; the first that fits.
_BYTES: tuple[tuple[Callable[[_Spot], bool], str], ...] = (
    (lambda s: s.char == "\r", "the file has Windows line ends; run: sed -i 's/\\r$//' FILE"),
    (
        lambda s: s.pos == 0 and s.text.startswith("\xef\xbb\xbf"),
        "it is a byte order mark; save the file as plain UTF-8",
    ),
    (
        lambda s: s.char in "\"'" and "\\" in s.rest and s.line.endswith("\\"),
        "a string must end on its line; a backslash does not join lines",
    ),
    (lambda s: s.char in "\"'", "a string must end on its line with the quote it began with"),
    (lambda s: s.char == "#", "end the last line with a newline"),
    (lambda s: s.char == "\\", "lines cannot be joined with a backslash; use a list over several lines"),
    (lambda s: is_python(s.line) or s.char in "(){}%", PYTHON_ADVICE),
    (lambda s: s.char == "-" and s.rest[1:2].isdigit(), "negative numbers need quotes"),
    (lambda s: s.char in "KMGT" and s.text[s.pos - 1 : s.pos].isdigit(), "numbers have no unit; memory is in MiB"),
    (lambda s: s.char in "ABCDEF" and s.after_digit, "hexadecimal is lower case outside quotes: write 0xff"),
    (lambda s: s.char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "names are lower case, and text needs quotes"),
    (lambda s: s.char == "+", "use += to append"),
    (lambda s: s.char == ":" and s.before.isidentifier(), "write = between a name and its value"),
    (lambda s: s.char == "/" and not s.before, "a setting is name = value, and one config is read at a time"),
    (lambda s: s.char == "<" and not s.before, "this is XML; for libvirt's: virsh domxml-to-native xen-xl FILE"),
    (lambda s: s.char == ".", "numbers are whole; put quotes around anything else"),
    (lambda s: not s.char.isascii(), "only ASCII outside strings and comments"),
    (lambda s: True, "put quotes around text"),
)
