# SPDX-License-Identifier: LGPL-2.1-only
"""The whole exception tree: every error that an administrator sees as one line.

A class says what the reader does next (edit the config, fix the host, look at Xen), carries the facts as fields so that
callers can branch on them, and builds its `Problem`.  ``ValueError`` and ``TypeError`` are for bugs and show a traceback.
"""

import os

from xlplug.model.problem import Problem

__all__ = [
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_REFUSED",
    "EXIT_USAGE",
    "EXIT_NOT_UNDONE",
    "ApplyError",
    "ConfigError",
    "HostError",
    "NotOnXenError",
    "Refused",
    "RollbackError",
    "StoreError",
    "UsageError",
    "XenError",
    "XenUnavailableError",
    "XlplugError",
    "one_line",
    "printable",
]

EXIT_DONE = 0  #: done, or nothing to do
EXIT_REFUSED = 1  #: refused, nothing touched
EXIT_USAGE = 2  #: wrong use of the command line (click's own code)
EXIT_FAILED = 3  #: failed, everything we did is undone
EXIT_NOT_UNDONE = 4  #: failed, and not everything could be undone


class XlplugError(Exception):
    """An error to show to the administrator as one line, without a traceback.

    ``message`` says what is wrong, ``hint`` what to do next, ``code`` names the kind (docs/errors.md); `problem` is all
    three, with where it is.  A class may have a code for those that are raised without one.
    """

    exit_code = EXIT_REFUSED
    code = ""

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code:
            self.code = code

    @property
    def problem(self) -> Problem:
        """What ``str`` prints, in its parts."""
        return Problem(self.message, self.hint, self.code)

    def __str__(self) -> str:
        return str(self.problem)


class ConfigError(XlplugError):
    """A domain configuration that xl would reject, or that cannot be planned: edit the file.

    ``line`` and ``column`` count from 1, ``column`` in bytes; ``text`` is the offending text.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        line: int = 0,
        column: int = 0,
        text: str = "",
        hint: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.path = path
        self.line = line
        self.column = column
        self.text = text

    @property
    def problem(self) -> Problem:
        where = ":".join([self.path or "config", *(str(n) for n in (self.line, self.column) if n)])
        return Problem(f"{where}: {self.message}", self.hint, self.code)


class HostError(XlplugError):
    """The host, or the recording of one, is not as it must be: fix the host."""


class Refused(XlplugError):  # noqa: N818 - reads as a verdict: "refused: …"
    """A plan that must not be carried out: its refusals, nothing touched."""

    def __init__(self, *refusals: Problem, see: str = ": see 'xlplug plan'") -> None:
        super().__init__(refusals[0].what, hint=refusals[0].advice, code=refusals[0].code)
        self.refusals = refusals
        self._see = see

    @property
    def problem(self) -> Problem:
        more = f" (and {len(self.refusals) - 1} more{self._see})" if len(self.refusals) > 1 else ""
        return Problem(f"refused: {self.message}", f"{self.hint}{more}", self.code)


class XenUnavailableError(XlplugError):
    """No usable Xen here: not root, not on Xen, library absent or of another version."""


class UsageError(XlplugError):
    """The command line asks for something that cannot be: correct it."""

    exit_code = EXIT_USAGE


class NotOnXenError(XenUnavailableError):
    """This machine does not run on Xen."""

    code = "XLP101"


class StoreError(XlplugError):
    """xenstore did not answer as it must."""

    code = "XLP110"


class XenError(XlplugError, OSError):
    """A Xen call that failed: ``call`` as the C library spells it, ``errno``, and what it was about."""

    code = "XLP111"

    def __init__(self, call: str, errno: int, detail: str = "", *, hint: str = "", code: str = "") -> None:
        name = _errno_name(errno)
        on = f" {detail}" if detail else ""
        XlplugError.__init__(self, f"{call}{on}: {name} ({os.strerror(errno)})", hint=hint, code=code)
        self.call = call
        self.errno = errno
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        return type(self), (self.call, self.errno or 0, self.detail)


class ApplyError(XlplugError):
    """A step failed; everything that this run had added is undone."""

    exit_code = EXIT_FAILED
    code = "XLP501"


class RollbackError(XlplugError):
    """A step failed and so did an undo: the host is not clean.  ``left`` lists what to revoke by hand."""

    exit_code = EXIT_NOT_UNDONE
    code = "XLP502"

    def __init__(self, message: str, left: tuple[str, ...], *, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.left = left

    @property
    def problem(self) -> Problem:
        advice = "; ".join(filter(None, (self.hint, f"still in place: {', '.join(self.left)}")))
        return Problem(self.message, advice, self.code)


def one_line(text: str) -> str:
    """The text as a single line that any stream takes, with our name before it."""
    return f"xlplug: {printable(' '.join(text.split()))}\n"


def printable(text: str) -> str:
    """The text without anything that may mislead a terminal or cannot be encoded: names and paths may hold any bytes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _errno_name(number: int) -> str:
    import errno

    return errno.errorcode.get(number, str(number))
