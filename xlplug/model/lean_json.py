# SPDX-License-Identifier: LGPL-2.1-only
"""``json.loads`` for the processes that must start fast: the ``json`` package loads re, which takes as long as Python's start.

The scanner is the one that ``json`` itself uses, written in C.  All that it does not take at once goes to ``json``: another
encoding, another kind of Python, and what is wrong, so that the error is json's own.
"""

__all__ = ["loads"]

_BLANKS = " \t\n\r"


class _Decoder:
    """What the scanner asks its decoder for, with the values of ``json.JSONDecoder()``."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_int = int
    parse_float = parse_constant = float  # of "NaN", "Infinity" and "-Infinity" too


def loads(data: bytes) -> object:
    """The value that the JSON text ``data`` stands for.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested deeper than Python recurses.
    """
    try:
        from _json import make_scanner

        text = data.decode()
        scan = make_scanner(_Decoder)  # type: ignore[arg-type] # which names only JSONDecoder
        value, end = scan(text, len(text) - len(text.lstrip(_BLANKS)))
        if not text[end:].strip(_BLANKS):
            return value
    except (ImportError, AttributeError, ValueError, StopIteration, SystemError):
        pass  # SystemError: in Python 3.10 and 3.11 the scanner fails without an exception where json.decoder is not loaded
    import json

    return json.loads(data)
