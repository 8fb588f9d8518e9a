# SPDX-License-Identifier: LGPL-2.1-only
"""xl's configuration language: bytes in, `Settings` out, accepting and rejecting what libxlutil does.

It never opens a file, never recurses, and is linear in the length of the text.  from_xl.py says what a setting means.

Source of the language: tools/libs/util/libxlu_cfg_l.l (tokens), libxlu_cfg_y.y (grammar), libxlu_cfg.c (dequoting,
numbers), the same from Xen 4.14 on.  Where libxlutil aborts or behaves in an undefined way, this refuses.

The text is lexed as latin-1, so that an index is a byte offset; values are decoded as UTF-8 with surrogate escapes.
"""

from collections.abc import Sequence
from typing import NoReturn

from xlplug.config.c_number import leading
from xlplug.config.settings import Settings, Value, json_value
from xlplug.model.errors import ConfigError

__all__ = ["Settings", "Value", "json_value", "parse"]

#: Deepest list nesting that libxlutil's parser stack takes (bison's YYMAXDEPTH of 10000, two entries a level).
_MAX_DEPTH = 4996

# The tokens, by the characters that they are made of.  Not as regular expressions: before each domain that may need grants the
# hook reads its config, and ``re`` takes half as long to load as Python to start.
_BLANKS = " \t"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_NUMERALS = frozenset("0123456789")
_IN_NAME = "abcdefghijklmnopqrstuvwxyz0123456789._"
_IN_NUMBER = "0123456789abcdefx"
_NEWLINE, _NAME, _NUM, _STR, _PUNCT = range(1, 6)
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
        self.settings = Settings(text, path, extra_at)
        self.pos = 0
        self.start = 0  # of the current token

    def parse(self) -> Settings:
        text, assign, end = self.text, self.settings.assign, len(self.text)
        plain, ascii_only = "\0" not in text, text.isascii()
        pos = 0
        at_line = plain  # at the start of one that may be simple
        while pos < end:
            newline = text.find("\n", pos) if at_line else -1
            simple = _simple(text[pos:newline]) if newline >= 0 else None
            if simple is None:
                self.pos = pos
                self.statement()
                pos = self.pos
                at_line = plain and text[pos - 1] == "\n"
                continue
            name, value = simple
            if name:
                assign(name, value if ascii_only else _decode(value), pos)
            pos = newline + 1
        return self.settings

    # tokens

    def next(self) -> tuple[int, str]:
        """The next token's kind and text; kind 0 at the end."""
        text = self.text
        self.start = start = _past(text, self.pos, _BLANKS)
        kind, end = _token(text, start)
        if kind:
            self.pos = end
            return kind, text[start:end]
        # One stray byte at the very end is taken for the end by libxlutil's lexer.
        if len(text) - start <= 1:
            self.pos = len(text)
            return 0, ""
        return self.bad_byte(start)

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
            taken = _decimal(body[slash + 2 : slash + 5]) if char in "01234567" else 0
            if taken < 2:
                hint = "write a backslash as \\\\; xl knows \\\\ \\\" \\' \\a \\b \\f \\n \\r \\t \\v"
                self.fail(self.start + 1 + slash, f"unknown escape '\\{char}'", f"\\{char}", hint)
            pos = slash + 2 + taken  # libxlutil drops the character

    # errors

    def unexpected(self, kind: int, text: str, wanted: str, before: Value = "") -> NoReturn:
        if kind == 0:
            self.fail(self.start, f"the text ends where {wanted} is wanted", "", "complete the last line")
        from xlplug.config.syntax_advice import for_token

        shown = "end of line" if kind == _NEWLINE else f"'{text}'"
        advice = for_token(text, before if isinstance(before, str) else "", self.line_text(self.start), wanted)
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
        path, line = self.settings.place(pos)
        raise ConfigError(message, path=path, line=line, column=self.column(pos), text=text, hint=hint, code="XLP202")


def _simple(line: str) -> tuple[str, str] | None:
    """The name and the value of a line that is one plain assignment; no name where the line is empty, or a comment.

    None for anything else.  Most lines are as simple as that, and looking for tokens takes several times as long.
    """
    name, equals, value = line.partition("=")
    name = name.strip(_BLANKS)
    if name.startswith("#") or (not name and not equals):
        return "", ""
    if name[:1] not in _LETTERS or name.strip(_IN_NAME):
        return None
    value = value.strip(_BLANKS)
    quote = value[:1]
    if quote in _NUMERALS:
        return None if value.strip(_IN_NUMBER) else (name, value)
    if quote in ('"', "'") and value.count(quote) == 2 and value[-1] == quote and "\\" not in value:
        return name, value[1:-1]
    return None


def _token(text: str, pos: int) -> tuple[int, int]:
    """The kind of the token at ``pos``, and its end; kind 0 where there is none."""
    char = text[pos : pos + 1]
    if char in _LETTERS:
        return _NAME, _past(text, pos, _IN_NAME)
    if char in _NUMERALS:
        return _NUM, _past(text, pos, _IN_NUMBER)
    if char == "\n":
        return _NEWLINE, pos + 1
    if char == "#":
        end = text.find("\n", pos) + 1
        return (_NEWLINE, end) if end else (0, pos)
    if char in ('"', "'"):
        end = _string_end(text, pos)
        return (_STR, end) if end else (0, pos)
    if char in ("[", "]", ",", ";", "="):
        return _PUNCT, pos + 1
    return (_PUNCT, pos + 2) if text.startswith("+=", pos) else (0, pos)


def _past(text: str, pos: int, chars: str) -> int:
    """Where the first character from ``pos`` on is that is none of ``chars``."""
    end = len(text)
    while pos < end and text[pos] in chars:
        pos += 1
    return pos


def _string_end(text: str, start: int) -> int:
    """The index after the quote that ends the string at ``start``; 0 where its line ends first."""
    quote = text[start]
    pos = start + 1
    end = text.find(quote, pos)
    while end >= 0:
        slash = text.find("\\", pos, end)
        if slash < 0:
            return 0 if text.find("\n", start, end) >= 0 else end + 1
        pos = slash + 2
        if slash + 1 == end:
            end = text.find(quote, pos)
    return 0


def _decimal(text: str) -> int:
    """How many characters strtoul(text, …, 10) takes."""
    return len(text) - len(leading(text, 10)[1])


def _decode(text: str) -> str:
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape")
