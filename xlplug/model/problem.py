# SPDX-License-Identifier: LGPL-2.1-only
"""What is wrong, and what to do about it: one value for refusals, warnings, notes, errors and findings.

Whoever finds the problem writes both parts.  Whoever shows it prints the value; nobody takes a sentence apart again.
"""

from typing import NamedTuple

__all__ = ["Problem"]


class Problem(NamedTuple):
    """``what`` is wrong, and the ``advice``: what to do, "" where there is nothing to do.  Prints as one line."""

    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}" if self.advice else self.what
