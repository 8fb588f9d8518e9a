# SPDX-License-Identifier: LGPL-2.1-only
"""What is wrong, and what to do about it: one value for refusals, warnings, notes, errors and findings.

A refusal, a warning and an error have a code, which stays the same when the words change: docs/errors.md explains each.
A note has none.
Whoever finds the problem writes both parts.  Whoever shows it prints the value; nobody takes a sentence apart again.
"""

from typing import NamedTuple, Self

__all__ = ["Problem"]


class Problem(NamedTuple):
    """``what`` is wrong, the ``advice``: what to do, "" where there is nothing to do, and the ``code``.  Prints as one line."""

    what: str
    advice: str = ""
    code: str = ""

    def __str__(self) -> str:
        text = f"{self.what}; {self.advice}" if self.advice else self.what
        return f"{text} [{self.code}]" if self.code else text

    def packed(self) -> str:
        """For a pipe to another process of ours, in one line."""
        return "\0".join(part.replace("\n", " ") for part in self)

    @classmethod
    def unpacked(cls, text: str) -> "Self":
        """What `packed` made; any other text is what is wrong."""
        return cls(*text.split("\0", 2))
