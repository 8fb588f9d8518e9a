# SPDX-License-Identifier: LGPL-2.1-only
"""The command lines of ``xl create``, ``restore`` and ``migrate-receive``, read as xl reads them.  Pure.

Source: tools/xl/xl_vmcontrol.c, main_create; tools/xl/xl_saverestore.c, main_restore;
tools/xl/xl_migrate.c, main_migrate_receive; the same from 4.14 to 4.23.  Options end at the first other word: xl has
called getopt with "+" before, and glibc keeps to that (xl.c, main).
"""

from typing import NamedTuple

__all__ = ["Create", "Restore", "is_create", "is_receive", "parse_create", "parse_restore", "parse_xl"]

_SHORT = "AFVcdef:inpqh"
_LONG = [
    "defconfig=",
    "dryrun",
    "ignore-global-affinity-masks",
    "quiet",
    "vncviewer",
    "vncviewer-autopass",
    "help",
]


class Create(NamedTuple):
    """What is to be created: the config's path, the ``k=v`` words, and whether xl would only parse it (``-n``)."""

    path: str
    extra: tuple[str, ...] = ()
    dry_run: bool = False


class Restore(NamedTuple):
    """What is to be restored: the saved domain's path, and that of the configuration that replaces its own."""

    checkpoint: str
    config: str | None = None


def parse_create(words: list[str]) -> Create | None:
    """The words after ``create``; None where xl answers with its help or an error."""
    path: str | None = None
    if words and not words[0].startswith("-") and "=" not in words[0]:
        path, words = words[0], words[1:]
    options: list[tuple[str, str]] = []
    rest = words
    if words and words[0].startswith("-"):
        found = _getopt(words, _SHORT, _LONG)
        if found is None:
            return None
        options, rest = found
    dry_run = False
    for name, value in options:
        if name in ("-h", "--help"):
            return None
        if name in ("-f", "--defconfig"):
            path = value
        dry_run |= name in ("-n", "--dryrun")
    extra = []
    for word in rest:
        if "=" in word:
            extra.append(word)
        elif path is None:
            path = word
        else:
            return None
    return None if path is None else Create(path, tuple(extra), dry_run)


def parse_restore(words: list[str]) -> Restore | None:
    """The words after ``restore``; None where xl answers with its help or an error."""
    found = _getopt(words, "FcpdeVAh", ["vncviewer", "vncviewer-autopass", "help"])
    if found is None:
        return None
    options, rest = found
    if not 1 <= len(rest) <= 2 or any(name in ("-h", "--help") for name, _ in options):
        return None
    return Restore(rest[-1], rest[0] if len(rest) == 2 else None)


def is_receive(words: list[str]) -> bool:
    """Whether these words after ``migrate-receive`` receive; xl answers any others with its help or an error."""
    found = _getopt(words, "Fedrph", ["colo", "coloft-script=", "userspace-colo-proxy", "help"])
    return found is not None and not found[1] and not any(name in ("-h", "--help") for name, _ in found[0])


def _getopt(words: list[str], short: str, long: list[str]) -> tuple[list[tuple[str, str]], list[str]] | None:
    """Options with their values, and the words behind them; None where getopt_long finds an error.

    As Python's ``getopt.getopt``, which loads gettext and with it re: that takes longer than all of ours for a creation.
    """
    found: list[tuple[str, str]] = []
    rest = words[::-1]  # the next word is the last one
    while rest and rest[-1].startswith("-") and rest[-1] != "-":
        word = rest.pop()
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            option = _long_option(name, long)
            if option is None or (equals and not option.endswith("=")):
                return None
            if option.endswith("=") and not equals:
                if not rest:
                    return None
                value = rest.pop()
            found.append((f"--{option.removesuffix('=')}", value))
            continue
        for at, letter in enumerate(word[1:], 2):
            if letter == ":" or letter not in short:
                return None
            if f"{letter}:" not in short:
                found.append((f"-{letter}", ""))
                continue
            if at == len(word) and not rest:
                return None
            found.append((f"-{letter}", word[at:] or rest.pop()))
            break
    return found, rest[::-1]


def _long_option(name: str, long: list[str]) -> str | None:
    """The option that this is, or is the beginning of; None where there is none, or more than one."""
    fitting = [option for option in long if option.startswith(name)]
    exact = [option for option in fitting if option.removesuffix("=") == name]
    found = exact or fitting
    return found[0] if len(found) == 1 else None


def parse_xl(argv: list[str]) -> Create | None:
    """A process's whole command line (``xl -v create …``); None for another subcommand, program, or ``xl -N``.

    xl takes any beginning of a subcommand's name that fits no other.
    """
    if not argv or argv[0].rpartition("/")[2] != "xl":
        return None
    for i, word in enumerate(argv[1:], 1):
        if not word.startswith("-"):
            return parse_create(argv[i + 1 :]) if is_create(word) else None
        if "N" in word:
            return None
    return None


def is_create(subcommand: str) -> bool:
    """Whether xl takes the word for ``create``: "cr" and longer beginnings fit no other subcommand."""
    return len(subcommand) > 1 and "create".startswith(subcommand)
