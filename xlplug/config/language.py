# SPDX-License-Identifier: LGPL-2.1-only
"""xl's configuration language: bytes in, `Settings` out, accepting and rejecting what libxlutil does.

It never opens a file, never recurses, and is linear in the length of the text.  from_xl.py says what a setting means.

Source of the language: tools/libs/util/libxlu_cfg_l.l (tokens), libxlu_cfg_y.y (grammar), libxlu_cfg.c (dequoting,
numbers), the same from Xen 4.14 on.  Where libxlutil aborts or behaves in an undefined way, this refuses.

The text is lexed as latin-1, so that an index is a byte offset; values are decoded as UTF-8 with surrogate escapes.
"""

import re
from collections.abc import Sequence
from typing import NoReturn

from xlplug.config.settings import Settings, Value, json_value, to_long
from xlplug.model.errors import ConfigError

__all__ = ["Settings", "Value", "json_value", "parse", "to_long"]

#: Deepest list nesting that libxlutil's parser stack takes (bison's YYMAXDEPTH of 10000, two entries a level).
_MAX_DEPTH = 4996

_STRING = r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'"""
_IDENT = r"[a-z][._0-9a-z]*"
_NUMBER = r"[0-9][0-9a-fx]*"
#: One whole simple statement, or an empty one, up to and with its end.
_statement = re.compile(
    rf"""[ \t]*(?:({_IDENT})[ \t]*=[ \t]*(?:"([^"\\\n]*)"|'([^'\\\n]*)'|({_NUMBER}))[ \t]*)?(?:;|(?:\#[^\n]*)?\n)"""
).match
_token = re.compile(rf"(\n|\#[^\n]*\n)|({_IDENT})|({_NUMBER})|({_STRING})|(\+=|[\[\],;=])").match
_NEWLINE, _NAME, _NUM, _STR, _PUNCT = range(1, 6)
_blanks = re.compile(r"[ \t]*").match
#: What strtoul(…, 10) takes from the bytes after an octal digit.
_decimal = re.compile(r"[ \t\v\f\r]*[+-]?[0-9]+").match
_ESCAPES = {
    "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
}  # fmt: skip


def parse(data: bytes, *, path: str = "", extra: Sequence[str] = ()) -> Settings:
    """Parse a configuration; ``extra`` are the ``k=v`` strings of xl's command line, appended as xl appends them.

    Raises:
        ConfigError: libxlutil rejects it too (or would abort); line and column are those of the offending text.
    """
    text = data.decode("latin-1")
    if extra:
        # tools/xl/xl_vmcontrol.c, create_domain: "\n%s\n" of the arguments, each with a newline.
        tail = "".join(f"{argument}\n" for argument in extra).encode("utf-8", "surrogateescape").decode("latin-1")
        text = f"{text}\n{tail}\n"
    return _Parser(text, path, len(data) + 1 if extra else None).parse()


class _Parser:
    def __init__(self, text: str, path: str, extra_at: int | None) -> None:
        self.text = text
        self.path = path
        self.extra_at = extra_at
        self.settings = Settings(text, path)
        self.pos = 0
        self.start = 0  # of the current token

    def parse(self) -> Settings:
        text, assign, end = self.text, self.settings.assign, len(self.text)
        simple = "\0" not in text
        ascii_only = text.isascii()
        pos = 0
        while pos < end:
            match = _statement(text, pos) if simple else None
            if match is None:
                self.pos = pos
                self.statement()
                pos = self.pos
                continue
            name, double, single, number = match.groups()
            if name is not None:
                value = number or double or single or ""
                assign(name, value if ascii_only else _decode(value), pos)
            pos = match.end()
        return self.settings

    # tokens

    def next(self) -> tuple[int, str]:
        """The next token's kind and text; kind 0 at the end."""
        blanks = _blanks(self.text, self.pos)
        self.start = pos = blanks.end() if blanks else self.pos
        match = _token(self.text, pos)
        if match is not None:
            self.pos = match.end()
            return match.lastindex or 0, match.group()
        # One stray byte at the very end is taken for the end by libxlutil's lexer.
        if len(self.text) - pos <= 1:
            self.start = pos
            self.pos = len(self.text)
            return 0, ""
        return self.bad_byte(pos)

    def statement(self) -> None:
        kind, name = self.next()
        if kind in (0, _NEWLINE) or name == ";":
            return
        if kind != _NAME:
            self.unexpected(kind, name, "a setting's name")
        at = self.start
        kind, operator = self.next()
        if operator not in ("=", "+="):
            self.unexpected(kind, operator, "'='", name)
        kind, text = self.next()
        value = self.list() if text == "[" and kind == _PUNCT else self.atom(kind, text)
        if operator == "=":
            self.settings.assign(name, value, at)
        elif not self.settings.append(name, value, at):
            self.fail(at, f"{name} +=: cannot join a list and a string", name, "make both sides the same kind")
        kind, text = self.next()
        if kind not in (0, _NEWLINE) and text != ";":
            self.unexpected(kind, text, "the end of the line", value)

    def atom(self, kind: int, text: str) -> str:
        if kind == _STR:
            return self.dequote(text)
        if kind != _NUM:
            self.unexpected(kind, text, "a value")
        return text

    def list(self) -> Value:
        """The list whose ``[`` was just read; a stack, not recursion."""
        top: list[Value] = []
        stack: list[list[Value]] = [top]
        want_value = True  # a value may come; else a comma or the end
        while True:
            kind, text = self.next()
            if kind == _NEWLINE:
                continue
            if kind == _PUNCT and text == "]":
                stack.pop()
                if not stack:
                    return top
                want_value = False
                continue
            if kind == _PUNCT and text == "," and not want_value:
                want_value = True
                continue
            if not want_value:
                self.unexpected(kind, text, "',' or ']'")
            if kind == _PUNCT and text == "[":
                if len(stack) >= _MAX_DEPTH:
                    self.fail(self.start, "lists nested too deep", "[", f"xl takes {_MAX_DEPTH} levels")
                inner: list[Value] = []
                stack[-1].append(inner)
                stack.append(inner)
                want_value = True
                continue
            stack[-1].append(self.atom(kind, text))
            want_value = False

    def dequote(self, quoted: str) -> str:
        body = quoted[1:-1]
        if "\0" in body:
            at = self.start + 1 + body.index("\0")
            self.fail(at, "NUL byte in a string", "\\0", "xl would abort here; remove it")
        if "\\" not in body:
            return _decode(body)
        out: list[str] = []
        pos = 0
        while True:
            slash = body.find("\\", pos)
            if slash < 0:
                out.append(body[pos:])
                return _decode("".join(out))
            out.append(body[pos:slash])
            char = body[slash + 1]
            plain = _ESCAPES.get(char)
            if plain is not None:
                out.append(plain)
                pos = slash + 2
                continue
            digits = _decimal(body, slash + 2, slash + 5) if char in "01234567" else None
            if digits is None or digits.end() - digits.start() < 2:
                hint = "write a backslash as \\\\; xl knows \\\\ \\\" \\' \\a \\b \\f \\n \\r \\t \\v"
                self.fail(self.start + 1 + slash, f"unknown escape '\\{char}'", f"\\{char}", hint)
            pos = digits.end()  # libxlutil drops the character

    # errors

    def unexpected(self, kind: int, text: str, wanted: str, before: Value = "") -> NoReturn:
        if kind == 0:
            self.fail(self.start, f"the text ends where {wanted} is wanted", "", "complete the last line")
        from xlplug.config.syntax_advice import for_token

        shown = "end of line" if kind == _NEWLINE else f"'{text}'"
        advice = for_token(text, before if isinstance(before, str) else "", self.line_text(self.start))
        self.fail(self.start, f"{shown} where {wanted} is wanted", text.rstrip("\n"), advice)

    def bad_byte(self, pos: int) -> NoReturn:
        from xlplug.config.syntax_advice import for_byte

        char = self.text[pos]
        shown = char if char.isprintable() and char.isascii() else f"\\x{ord(char):02x}"
        advice = for_byte(self.text, pos, self.line_text(pos), self.column(pos))
        self.fail(pos, f"unexpected '{shown}'", shown, advice)

    def line_text(self, pos: int) -> str:
        end = self.text.find("\n", pos)
        return self.text[self.text.rfind("\n", 0, pos) + 1 : end if end >= 0 else len(self.text)]

    def column(self, pos: int) -> int:
        return pos - self.text.rfind("\n", 0, pos)

    def fail(self, pos: int, message: str, text: str, hint: str) -> NoReturn:
        line = self.text.count("\n", 0, pos) + 1
        path = self.path
        if self.extra_at is not None and pos >= self.extra_at:
            line -= self.text.count("\n", 0, self.extra_at)
            path = "command line"
        raise ConfigError(message, path=path, line=line, column=self.column(pos), text=text, hint=hint, code="XLP202")


def _decode(text: str) -> str:
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape")
