# SPDX-License-Identifier: LGPL-2.1-only
"""Where ``xlplug`` starts: the hot command lines at once, everything else through click."""

import gc
import os
import sys

from xlplug.dom0 import lean_import
from xlplug.model import lean_typing

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]

_NO_CLICK = "XLP855"
_HOT = ("grant", "create", "restore", "migrate-receive", "--help", "-h")


def main() -> None:
    """Run the command line of this process and exit."""
    if sys.argv[1:2] and sys.argv[1] in _HOT:
        # It lives for milliseconds, often while a domain is being created: looking for garbage takes a tenth of them.
        gc.disable()
        lean_import.install()
        lean_typing.install()
    from xlplug.dom0 import streams

    streams.prepare()
    try:
        _run(sys.argv[1:])
    except OSError as error:
        _not_printed(error)
    except KeyboardInterrupt:  # while modules were loaded: commands see to it themselves
        streams.complain("interrupted; nothing was changed")
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["help"]:
        arguments = sys.argv[1:] = [*arguments[1:], "--help"]
    if arguments[:1] == ["grant"]:
        _grant(arguments[1:])
    elif arguments[:1] in (["create"], ["restore"], ["migrate-receive"]) and not _asks_us_for_help(arguments):
        _create(*arguments)
    elif arguments in (["--help"], ["-h"]):
        from xlplug.commands.fast_help import TEXT

        # click wraps at the terminal's width when that is below 80 columns; then it has to do it.
        if not sys.stdout.isatty() or os.get_terminal_size().columns >= 82:
            sys.stdout.write(TEXT)
            sys.stdout.flush()
            sys.exit(0)
    gc.enable()
    lean_typing.uninstall()
    try:
        from xlplug.commands import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit(f"xlplug: Python's click is not installed; install it (Debian: python3-click) [{_NO_CLICK}]")
    cli.main(prog_name="xlplug")


def _not_printed(error: OSError) -> "NoReturn":
    """For help and the like, which click prints; commands see to it themselves."""
    import errno

    from xlplug.dom0 import streams

    if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EFBIG) or error.filename is not None:
        raise error
    if error.errno == errno.EPIPE:
        streams.give_up()
        sys.exit(0)
    streams.complain(str(streams.unwritten(error)))
    sys.exit(1)


def _grant(words: list[str]) -> None:
    """Run ``xlplug grant`` and exit; return where click has to read the words."""
    from xlplug.commands import common, fast_argv

    options = fast_argv.grant_options(words)
    if options is not None:
        from xlplug.commands.grant import grant

        sys.exit(common.run(grant, options))


def _create(verb: str, *words: str) -> "NoReturn":
    """Run what goes through the front end, and exit."""
    from xlplug.commands import common
    from xlplug.hook import create

    run = {"create": create.create, "restore": create.restore, "migrate-receive": create.receive}[verb]
    sys.exit(common.run(run, words))


def _asks_us_for_help(words: list[str]) -> bool:
    """Behind the front end it is xl's help that is asked for."""
    return ("-h" in words or "--help" in words) and "XLPLUG_XL" not in os.environ


if __name__ == "__main__":
    main()
