# SPDX-License-Identifier: LGPL-2.1-only
"""Numbers as the C library reads them for xl and libxlutil: strtol, atoi, sscanf("%x").

Without regular expressions: the hook's processes load this, and ``re`` takes half as long to load as Python to start.
"""

__all__ = ["is_binary", "leading", "to_long"]

_BLANKS = " \t\n\v\f\r"  # isspace() in the C locale
_DIGITS = {8: "01234567", 10: "0123456789", 16: "0123456789abcdefABCDEF"}
_LONG_MIN, _LONG_MAX = -(1 << 63), (1 << 63) - 1


def leading(text: str, base: int) -> tuple[int | None, str]:
    """The number that ``text`` begins with, and what follows it; None where strtol would find no digits.

    ``base``: 0 (by its prefix), 8, 10 or 16.  Unlike strtol's, the number is not confined to a long; from 1 << 64 on, in
    either direction, it is 1 << 64.
    """
    rest = text.lstrip(_BLANKS)
    sign = -1 if rest.startswith("-") else 1
    if rest.startswith(("+", "-")):
        rest = rest[1:]
    if base in (0, 16) and rest[:2] in ("0x", "0X") and rest[2:3] and rest[2] in _DIGITS[16]:
        base, rest = 16, rest[2:]
    elif base == 0:
        base = 8 if rest.startswith("0") else 10
    after = rest.lstrip(_DIGITS[base])
    digits = rest[: len(rest) - len(after)]
    if not digits:
        return None, text
    digits = digits.lstrip("0") or "0"
    # 30 digits are more than 64 bits in each base, and Python refuses to convert some thousand decimal ones.
    return sign * (min(int(digits, base), 1 << 64) if len(digits) < 30 else 1 << 64), after


def to_long(text: str) -> int | None:
    """What strtol(text, …, 0) makes of the whole text, or None (EINVAL, or ERANGE beyond 64 signed bits)."""
    number, after = leading(text, 0)
    return None if number is None or after or not _LONG_MIN <= number <= _LONG_MAX else number


def is_binary(text: str) -> bool:
    """Whether strtol(text, …, 0) takes the whole text only from glibc 2.38 on, which reads C23's 0b.

    Source: glibc's NEWS, 2.38; libxlutil of Debian 13 calls __isoc23_strtol, that of Debian 12 strtol.
    """
    body = text.lstrip(_BLANKS)
    body = body[1:] if body.startswith(("+", "-")) else body
    return body[:2] in ("0b", "0B") and len(body) > 2 and not body[2:].strip("01")
