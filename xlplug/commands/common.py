# SPDX-License-Identifier: LGPL-2.1-only
"""What the commands share: running one, reporting its error in one line, reading what its words name.  No click here.

A command prints its results to stdout, returns its exit code, and raises `XlplugError` for an error, which becomes one
line.  Modules that only some commands need are imported where they are used, so that the hot ones start fast.
"""

import sys
from collections.abc import Callable, Iterable

from xlplug.dom0 import streams
from xlplug.dom0.files import read_all
from xlplug.dom0.streams import say
from xlplug.model.addr import Domid
from xlplug.model.errors import (
    EXIT_DONE,
    EXIT_REFUSED,
    ConfigError,
    Refused,
    UsageError,
    XlplugError,
    printable,
)
from xlplug.model.problem import Problem

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.model.hypervisor import DomainInfo, Hypervisor, Store

__all__ = [
    "find_domain",
    "interruptible",
    "parse_domain",
    "parse_domid",
    "print_json",
    "print_lines",
    "read_config",
    "run",
    "say",
    "warn",
]


def run(command: Callable[..., int], *args: object) -> int:
    """Call a command; an error becomes its one line on stderr and its exit code."""
    try:
        code = command(*args)
        streams.finish()
    except XlplugError as error:
        streams.complain(str(error))
        _count(command, args, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        streams.complain("interrupted; nothing was changed")
        return EXIT_REFUSED
    except BrokenPipeError:
        streams.give_up()
        return EXIT_DONE
    _count(command, args, code)
    return code


def _count(command: Callable[..., int], args: tuple[object, ...], status: int) -> None:
    """For ``xlplug metrics``.  A domain that is created is counted by the wrapper: this process has become xl."""
    name = getattr(command, "__name__", "")
    if name in ("create", "restore", "receive", "grant") and not any(getattr(arg, "rehearsal", False) for arg in args):
        from xlplug.dom0 import tally

        tally.add(name, status)


def print_lines(lines: Iterable[str]) -> None:
    """Lines of a result.  Names in them may hold anything; nothing reaches the terminal but what it can show."""
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(f"{printable(line)}\n" for line in lines)
    streams.write(text.encode(encoding, "backslashreplace").decode(encoding))


def print_json(value: object, *, done: bool = False) -> None:
    """A result for programs, ASCII only; ``done`` where it says what was changed, which stands if it cannot be printed."""
    import json

    (streams.put if done else streams.write)(json.dumps(value, indent=1) + "\n")


def warn(problems: Iterable[Problem]) -> None:
    """A line on stderr for each."""
    for problem in problems:
        streams.complain(f"warning: {problem}")


def read_config(path: str) -> bytes:
    """A config's bytes; ``-`` is standard input.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    try:
        if path == "-":
            return read_all(sys.stdin.buffer, path)
        with open(path, "rb") as file:
            return read_all(file, path)
    except OSError as error:
        raise ConfigError(
            error.strerror or "cannot be read", path=path, hint="give the path of an xl config", code="XLP201"
        ) from error


def parse_domid(text: str | None, option: str) -> Domid | None:
    """The number in an option, None where the option is not given.

    Raises:
        UsageError: it is not a number.
    """
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise UsageError(f"{option} '{text}' is not a domid", hint="give a number from 'xl list'", code="XLP801")
    return int(text)


def parse_domain(text: str) -> Domid | str:
    """A domid or a name, as xl takes it: what is all digits is a domid.

    Raises:
        UsageError: a number that a guest cannot have.
    """
    from xlplug.model.occasion import Who
    from xlplug.plan import domid_refusals

    if not text.isascii() or not text.isdecimal():
        return text
    domid = parse_domid(text, "domid") or 0
    for problem in domid_refusals(Who(domid)):
        raise UsageError(problem.what, hint=problem.advice, code=problem.code)
    return domid


def find_domain(domain: Domid | str, xen: "Hypervisor", store: "Store") -> "DomainInfo":
    """The living guest of that number or name.

    Raises:
        UsageError: the name is dom0's.
        Refused: it does not exist.
    """
    from xlplug.dom0 import domains

    domid = domain if isinstance(domain, int) else domains.named(domain, store)
    if domid == 0:
        raise UsageError(
            f"'{domain}' is dom0, which holds these rights already", hint="give a guest (xl list)", code="XLP802"
        )
    info = None if domid is None else xen.domain_info(domid)
    if info is None:
        looks_like_a_path = isinstance(domain, str) and ("/" in domain or domain.endswith((".cfg", ".conf")))
        advice = "give its number or name (see 'xl list'), not its config" if looks_like_a_path else "see 'xl list'"
        shown = domain if isinstance(domain, int) else f"'{domain}'"
        raise Refused(Problem(f"domain {shown} does not exist", advice, code="XLP112"))
    return info


def interruptible() -> None:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: with everything undone.  One that is ignored (nohup) stays so."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
