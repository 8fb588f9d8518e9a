# SPDX-License-Identifier: LGPL-2.1-only
"""Numbers as the C library reads them: held to the C library's own functions."""

import ctypes
import random

import pytest

from xlplug.config.c_number import leading, to_long

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.strtol.restype = ctypes.c_long
LIBC.strtol.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1


def strtol(text: str, base: int) -> tuple[int | None, str]:
    """Its result, which is confined to a long, and what it leaves; None where it takes nothing."""
    data = ctypes.create_string_buffer(text.encode())
    end = ctypes.c_void_p()
    number = LIBC.strtol(data, ctypes.byref(end), base)
    taken = (end.value or 0) - ctypes.addressof(data)
    return (number if taken else None), text[taken:]


def ours(text: str, base: int) -> tuple[int | None, str]:
    number, after = leading(text, base)
    return (None if number is None else max(LONG_MIN, min(number, LONG_MAX))), after


def numbers() -> list[str]:
    rng = random.Random(14)
    tails = ["", "0" * 40, "9" * 18, "9" * 40, "f" * 15, "F" * 40, "7" * 20, "7" * 22, "1" + "0" * 21]
    heads = ["".join(rng.choices("0123456789abfFxXg+- \t\n\v\f\r.:,", k=rng.randrange(9))) for _ in range(3000)]
    return [head + rng.choice(tails) for head in heads]


@pytest.mark.parametrize("base", [0, 8, 10, 16])
def test_as_strtol_reads_them(base: int) -> None:
    wrong = [text for text in numbers() if ours(text, base) != strtol(text, base)]
    assert not wrong, [(text, ours(text, base), strtol(text, base)) for text in wrong[:5]]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9223372036854775807", LONG_MAX), ("9223372036854775808", None), ("-9223372036854775808", LONG_MIN),
        ("-9223372036854775809", None), ("0x7fffffffffffffff", LONG_MAX), ("0x8000000000000000", None), ("", None), ("0x", None),
        ("1 ", None), (" 1", 1), ("08", None), ("9" * 5000, None), ("0" * 5000 + "7", 7), ("\u0663", None),
    ],
)  # fmt: skip
def test_whole_texts(text: str, number: int | None) -> None:
    assert to_long(text) == number
