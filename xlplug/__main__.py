# SPDX-License-Identifier: LGPL-2.1-only
"""Where ``xlplug`` starts: the hot command lines at once, everything else through click."""

import gc
import os
import sys

from xlplug.model import lean_typing

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit."""
    if sys.argv[1:2] == ["help"]:
        sys.argv[1:] = [*sys.argv[2:], "--help"]
    arguments = sys.argv[1:]
    if arguments[:1] == ["grant"]:
        _grant(arguments[1:])
    elif arguments[:1] in (["create"], ["restore"], ["migrate-receive"]) and not _asks_us_for_help(arguments):
        _create(*arguments)
    elif arguments in (["--help"], ["-h"]):
        from xlplug.commands.fast_help import TEXT

        # click wraps at the terminal's width when that is below 80 columns; then it has to do it.
        if not sys.stdout.isatty() or os.get_terminal_size().columns >= 82:
            sys.stdout.write(TEXT)
            sys.exit(0)
    try:
        from xlplug.commands import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("xlplug: Python's click is not installed; install it (Debian: python3-click)")
    cli.main(prog_name="xlplug")


def _grant(words: list[str]) -> None:
    """Run ``xlplug grant`` and exit; return where click has to read the words."""
    _start_lean()
    from xlplug.commands import common, fast_argv

    options = fast_argv.grant_options(words)
    if options is not None:
        from xlplug.commands.grant import grant

        sys.exit(common.run(grant, options))
    lean_typing.uninstall()


def _create(verb: str, *words: str) -> "NoReturn":
    """Run what goes through the front end, and exit."""
    _start_lean()
    from xlplug.commands import common
    from xlplug.hook import create

    run = {"create": create.create, "restore": create.restore, "migrate-receive": create.receive}[verb]
    sys.exit(common.run(run, words))


def _start_lean() -> None:
    """For a process that lives for milliseconds while a domain is being created: looking for garbage takes a tenth of them."""
    gc.disable()
    lean_typing.install()


def _asks_us_for_help(words: list[str]) -> bool:
    """Behind the front end it is xl's help that is asked for."""
    return ("-h" in words or "--help" in words) and "XLPLUG_XL" not in os.environ


if __name__ == "__main__":
    main()
