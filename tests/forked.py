# SPDX-License-Identifier: LGPL-2.1-only
"""``python -m xlplug`` without Python's start: a process that has imported all of xlplug forks for each command line.

What is run is a process all the same: it has streams, environment, folder and umask of its own, may become another program,
and ends as Python ends.  The start itself is for the tests that start a program: streams that are closed, the encoding, which
modules are imported.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NoReturn

__all__ = ["CHECKOUT", "Forked", "text", "xlplug"]

_MESSAGE = 1 << 17  # bytes; more than a command line of any test


class Forked:
    """The process that forks, started when it is first needed.  It has xlplug of ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _channel(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], cwd=self.folder,
                env={"PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip

        def end() -> None:
            ours.close()
            process.wait()

        atexit.register(end)
        return ours

    def run(
        self, *words: str, stdin: bytes | int = b"", folder: Path | None = None, env: dict[str, str] | None = None,
        umask: int = 0o022, before: str = "",
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        """``xlplug WORDS``, and ``before`` executed before it; ``stdin`` is a descriptor, or what comes through a pipe."""
        asked = [words, str(folder or self.folder), dict(os.environ) if env is None else env, umask, before]
        piped = isinstance(stdin, bytes)
        given = _pipe(stdin) if isinstance(stdin, bytes) else stdin
        with _memory() as out, _memory() as err:
            socket.send_fds(self._channel, [json.dumps(asked).encode()], [given, out.fileno(), err.fileno()])
            if piped:
                os.close(given)
            status = int(self._channel.recv(_MESSAGE))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(words, status, out.read(), err.read())


def _pipe(data: bytes) -> int:
    """A pipe with all of ``data`` in it, which it has room for (pipe(7): 64 KiB)."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    assert os.write(writing, data) == len(data)
    os.close(writing)
    return reading


def _memory() -> BinaryIO:
    return open(os.memfd_create("stream"), "w+b", buffering=0)  # type: ignore[return-value] # a FileIO


CHECKOUT = Forked(Path(__file__).parents[1])


def xlplug(
    *words: str, stdin: bytes | int = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command line in the folder of the checkout."""
    return text(CHECKOUT.run(*words, stdin=stdin, env=env))


def text(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    """With what was printed as text."""
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _serve(channel: socket.socket) -> bool:
    """Fork for each that asks, and say how it has ended.  True in the process that is to run a command line."""
    while True:
        data, fds, _, _ = socket.recv_fds(channel, _MESSAGE, 3)
        if not data:
            return False
        pid = os.fork()
        if pid == 0:
            channel.close()
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            words, folder, env, umask, before = json.loads(data)
            sys.argv[1:] = words
            os.chdir(folder)
            os.umask(umask)
            os.environ.clear()
            os.environ.update(env)
            encoding, _, errors = env.get("PYTHONIOENCODING", "").partition(":")
            if encoding:  # which Python looks at when it starts
                for stream, how in ((sys.stdin, errors), (sys.stdout, errors), (sys.stderr, "backslashreplace")):
                    stream.reconfigure(encoding=encoding, errors=how)
            exec(before, {})
            return True
        for fd in fds:
            os.close(fd)
        channel.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _start() -> None:
    sys.path[0] = os.getcwd()
    import xlplug

    for module in pkgutil.walk_packages(xlplug.__path__, "xlplug."):
        if not module.name.endswith(("__main__", "._build")):
            with contextlib.suppress(ModuleNotFoundError):  # pyelftools, which one command needs
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # what is not looked at is not copied
    if _serve(socket.socket(fileno=int(sys.argv.pop()))):
        from xlplug.__main__ import main

        try:
            main()
        except SystemExit as end:
            _end(end.code)


def _end(code: object) -> NoReturn:
    """As Python does, but without taking apart all that has been imported, which takes longer than most commands."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _start()
