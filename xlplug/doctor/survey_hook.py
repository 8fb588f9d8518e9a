# SPDX-License-Identifier: LGPL-2.1-only
"""Reads what ``xlplug doctor`` judges of the hook: which xl comes first, the wrapper, the watcher."""

import contextlib
import os
import signal
from itertools import takewhile

from xlplug.abi import elf
from xlplug.doctor.facts import Hook, InstalledFile, Wrapper
from xlplug.doctor.reading import Broken, Missing, Reading, Skipped, Unread, after, tried
from xlplug.doctor.survey_xenstored import read_until_closed
from xlplug.hook import create, device_model, install
from xlplug.model.errors import HostError

__all__ = ["find_watcher", "fits", "read_hook"]

_WRAPPER_SECONDS = 30.0  # Python's start and imports, on an emulated machine
_AGAIN = "run 'xlplug hook install' with a Python that has python3-cffi"


def read_hook(prefix: str, version: Reading[tuple[int, int, str]]) -> Hook:
    """Which xl comes first in PATH, what it starts, and whether that is as it was installed."""
    first = install.first_xl()
    hooked = first is not None and device_model.is_ours(first)
    if hooked and first is not None:
        prefix = install.prefix_of(first)
    files = tried(install.installed, prefix)
    wrapper = tried(install.wrapper_of, first) if hooked else tried(create.wrapper)
    model = after("xen", version, lambda _: device_model.real(""))
    return Hook(
        first=first,
        hooked=hooked,
        prefix=prefix,
        files=files
        if isinstance(files, Missing)
        else tuple(InstalledFile(path, state) for path, state in files.items()),
        real_xl=tried(create.real_xl),
        program=tried(install.program_of, first) if hooked else Skipped("hook"),
        wrapper=wrapper,
        library=device_model.preload_library("" if isinstance(wrapper, Missing) else wrapper),
        ran=after("wrapper", wrapper, _ran),
        device_model=model,
        fits=fits(model, version),
    )


def fits(path: Reading[str], version: Reading[tuple[int, int, str]]) -> Reading[str]:
    """What a device model needs of Xen's libraries; `Broken` where the running Xen has something else.

    A script, or a dom0 without pyelftools, is `Unread`: it may be in order.
    """
    return after("device model", path, lambda path: _fits(path, "" if isinstance(version, Missing) else version[2]))


def _fits(path: str, running: str) -> str | Missing:
    try:
        report = elf.look_into(path, running)
    except elf.ProgramError as error:
        return Unread(error.why, error.hint, error.code)
    except HostError as error:
        return Unread(*error.problem)
    if report.problems:
        return Broken(*report.problems[0])
    if not report.libraries:
        return Unread("it uses no Xen library")
    versions = [library.xen for library in report.libraries if library.xen]
    return f"built for Xen {versions[0]}" if versions else "runs on any Xen"


def _ran(path: str) -> Wrapper:
    """Start the wrapper's interpreter as libxl would, and only let it import what the wrapper does.

    Raises:
        HostError: it does not start, or does not find what it needs.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    interpreter, *options = lines[0].removeprefix("#!").split()
    # All that it does before it imports anything of ours: it sets the path.
    code = [*takewhile(lambda line: line != "try:" and not line.startswith("from xlplug"), lines[1:])]
    code += [
        "import xlplug, xlplug.hook.wrapper, xlplug.plan, xlplug.xen.ctrl, xlplug.xen.store",
        "print(xlplug.__version__)",
    ]
    try:
        output = _output_of([interpreter, *options, "-c", "\n".join(code)])
    except OSError as error:
        raise HostError(f"{path} wants {interpreter}: {error.strerror}", hint=_AGAIN, code="XLP609") from error
    if len(output) != 1:
        why = output[-1] if output else f"no answer within {_WRAPPER_SECONDS:.0f} s"
        raise HostError(f"{path} does not start: {why}", hint=_AGAIN, code="XLP609")
    return Wrapper(output[0])


def _output_of(argv: list[str]) -> list[str]:
    """The lines that a program prints, standard error included; none when it takes too long.

    Raises:
        OSError: it cannot be started.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            places = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in ((null, 0), (write_end, 1), (write_end, 2))]
            pid = os.posix_spawn(argv[0], argv, {"PATH": os.defpath}, file_actions=places)
        finally:
            os.close(write_end)
            os.close(null)
        data = read_until_closed(read_end, _WRAPPER_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it has closed its output, or takes too long
        os.waitpid(pid, 0)
    finally:
        os.close(read_end)
    return data.decode("utf-8", "replace").splitlines()


def find_watcher(proc: str) -> int | None:
    """The pid of a running ``xlplug watch``, which only root's counts as."""
    found = []
    for pid in (int(name) for name in os.listdir(proc) if name.isdecimal()):
        try:
            if os.stat(f"{proc}/{pid}").st_uid != 0:
                continue
            with open(f"{proc}/{pid}/cmdline", "rb") as file:
                words = [os.path.basename(os.fsdecode(word)) for word in file.read().split(b"\0")[:-1]]
        except OSError:
            continue  # it ended meanwhile
        if any(words[at : at + 2] == ["xlplug", "watch"] for at in range(min(len(words), 4))):
            found.append(pid)
    return min(found, default=None)
