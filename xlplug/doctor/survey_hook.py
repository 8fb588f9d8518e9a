# SPDX-License-Identifier: LGPL-2.1-only
"""Reads what ``xlplug doctor`` judges of the hook: which xl comes first, the wrapper, the watcher."""

import contextlib
import os
import signal
from itertools import takewhile

from xlplug.abi import elf
from xlplug.doctor.facts import Hook, InstalledFile, Wrapper
from xlplug.doctor.reading import Broken, Reading, Unread, because, tried
from xlplug.doctor.survey_xenstored import _read_until_closed
from xlplug.hook import create, device_model, install
from xlplug.model.errors import HostError

_WRAPPER_SECONDS = 30.0  # Python's start and imports, on an emulated machine


def read_hook(prefix: str, running: str) -> Hook:
    """Which xl comes first in PATH, what it starts, and whether that is as it was installed."""
    first = install.first_xl()
    hooked = first is not None and device_model.is_ours(first)
    if hooked and first is not None:
        prefix = install.prefix_of(first)
    files = tried(install.installed, prefix)
    wrapper = tried(install.wrapper_of, first) if hooked else tried(create.wrapper)
    model = tried(device_model.real, "") if running else Unread("no Xen runs here")
    return Hook(
        first=first,
        hooked=hooked,
        prefix=prefix,
        files=files
        if isinstance(files, Unread | Broken)
        else tuple(InstalledFile(path, state) for path, state in files.items()),
        real_xl=tried(create.real_xl),
        program=tried(install.program_of, first) if hooked else Unread("no front end is in use"),
        wrapper=wrapper,
        library=device_model.preload_library("" if isinstance(wrapper, Unread | Broken) else wrapper),
        ran=because(wrapper, "there is no wrapper") if isinstance(wrapper, Unread | Broken) else tried(_ran, wrapper),
        device_model=model,
        fits=fits(model, running),
    )


def fits(path: Reading[str], running: str) -> Reading[str]:
    """What a device model needs of Xen's libraries; `Broken` where the running Xen has something else."""
    if isinstance(path, Unread | Broken):
        return because(path)
    report = tried(elf.look_into, path, running)
    if isinstance(report, Unread | Broken):
        return Unread(report.why.replace(f"{path} ", "it "))  # a script, or no pyelftools: it may be in order
    if report.problems:
        return Broken(*report.problems[0])
    if not report.libraries:
        return Unread("it needs no library of Xen's")
    versions = [library.xen for library in report.libraries if library.xen]
    return f"built for Xen {versions[0]}" if versions else "runs on any Xen"


def _ran(path: str) -> Wrapper:
    """Start the wrapper's interpreter as libxl would, and let it import what the wrapper does, no more.

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
    again = "run 'xlplug hook install' with a Python that has python3-cffi"
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            pid = os.posix_spawn(
                interpreter,
                [interpreter, *options, "-c", "\n".join(code)],
                {"PATH": os.defpath},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, write_end, 1),
                    (os.POSIX_SPAWN_DUP2, write_end, 2),
                ],
            )
        except OSError as error:
            raise HostError(f"{path} wants {interpreter}: {error.strerror}", hint=again) from error
        finally:
            os.close(write_end)
            os.close(null)
        output = _read_until_closed(read_end, _WRAPPER_SECONDS).decode("utf-8", "replace").splitlines()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it has closed its output, or takes too long
        os.waitpid(pid, 0)
    finally:
        os.close(read_end)
    if len(output) != 1:
        why = output[-1] if output else f"no answer within {_WRAPPER_SECONDS:.0f} s"
        raise HostError(f"{path} does not start: {why}", hint=again)
    return Wrapper(output[0])


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
