# SPDX-License-Identifier: LGPL-2.1-only
"""Standard input, output and error that may be closed, full or gone: none of it may stop what is half done.

``xl create >&-`` works, so it works through us as well, and xl finds closed what it would have found closed.  A command that
reads and prints fails when it cannot print; one that changes something does not, because its exit code says what was changed.
"""

import io
import os
import sys

from xlplug.model.errors import HostError, one_line, printable

__all__ = ["complain", "finish", "give_up", "prepare", "put", "say", "to_stderr", "unwritten", "write"]


_LOST = "XLP823"


def prepare() -> None:
    """Stand in for the streams that were closed before Python started; the next program finds them closed again.

    Otherwise the next file to be opened would have the number of standard output.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            if fd != number:
                os.dup2(fd, number, inheritable=False)
                os.close(fd)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as the process


def complain(text: str) -> None:
    """A line on stderr, safe for a terminal; lost where nobody takes it."""
    to_stderr(one_line(text))


def to_stderr(line: str) -> None:
    """Write it as it is; what nobody takes is not tried again at Python's end, whose exit status would then be 120."""
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (OSError, ValueError):
        raw = io.FileIO(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


def write(text: str) -> None:
    """A part of a result, on stdout.

    Raises:
        BrokenPipeError: nobody reads it.
        HostError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error) from error


def finish() -> None:
    """Write all that is still to be written.

    Raises:
        BrokenPipeError, HostError: as `write`.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error) from error


def say(line: str) -> None:
    """A line about what was done, as `put`."""
    encoding = sys.stdout.encoding or "utf-8"
    put(f"{printable(line)}\n".encode(encoding, "backslashreplace").decode(encoding))


def put(text: str) -> None:
    """Write to stdout what was done; where it cannot be written, that does not stop or change what is done."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        give_up()
    except (OSError, ValueError) as error:
        give_up()
        why = getattr(error, "strerror", error)
        complain(f"warning: the output is lost from here on ({why}); the work goes on [{_LOST}]")


def give_up() -> None:
    """Forget what could not be written, and all that comes."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)


def unwritten(error: OSError) -> HostError:
    """The error to show when stdout took no more, which is not written to after this."""
    give_up()
    return HostError(f"standard output: {error.strerror}", hint="write it to where there is room", code="XLP822")
