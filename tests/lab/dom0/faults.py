# SPDX-License-Identifier: LGPL-2.1-only
"""Runs ``grant`` and ``revoke`` with a fault at one hypercall, below libxenctrl (tests/lab/stubdom/fault.c).

One process has imported everything and forks for each run, because starting Python takes most of a second in the lab.
"""

import json
import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

LIBRARY = "/stubdom/libfault.so"
NOTHING, FAIL, KILL_BEFORE, KILL_AFTER, RUN_BEFORE, RUN_AFTER = range(6)


class Fault(NamedTuple):
    """At the call number ``at``: an errno, a kill, or a shell command."""

    at: int = -1
    action: int = NOTHING
    code: int = 0
    command: str = ""


NONE = Fault()


class Ended(NamedTuple):
    """How a run ended; ``calls`` that change rights, -1 where it was killed."""

    status: int
    out: str
    err: str
    calls: int


class Runner:
    """The process that forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.dom0.faults"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "LD_PRELOAD": LIBRARY},
        )  # fmt: skip

    def __call__(self, *words: str, fault: Fault = NONE) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([words, fault]) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()


def serve() -> None:
    """Answer each line: the words and the fault; how it ended."""
    del os.environ["LD_PRELOAD"]  # not for what a fault starts
    from xlplug.commands import grant, revoke  # noqa: F401 - before the fork
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    with XenCtrl(), XenStore():
        pass
    for line in sys.stdin:
        words, fault = json.loads(line)
        print(json.dumps(_forked(words, Fault(*fault))), flush=True)


def _forked(words: list[str], fault: Fault) -> Ended:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as seen:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status, calls = _run(words, fault)
            os.write(seen.fileno(), str(calls).encode())
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        for file in (out, err, seen):
            file.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), out.read(), err.read(), int(seen.read() or -1))


def _run(words: list[str], fault: Fault) -> tuple[int, int]:
    import cffi

    from xlplug.commands import common
    from xlplug.commands.fast_argv import grant_options
    from xlplug.commands.grant import grant
    from xlplug.commands.revoke import revoke

    ffi = cffi.FFI()
    ffi.cdef("void fault_arm(int number, int what, int error, const char *words); int fault_calls(void);")
    library = ffi.dlopen(None)
    library.fault_arm(fault.at, fault.action, fault.code, fault.command.encode())
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    command, arguments = (grant, (grant_options(words[1:]),)) if words[0] == "grant" else (revoke, (words[1], "text"))
    status = common.run(command, *arguments)
    sys.stdout.flush()
    return status, library.fault_calls()


if __name__ == "__main__":
    serve()
