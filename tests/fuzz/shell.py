# SPDX-License-Identifier: LGPL-2.1-only
"""The front end's shell function, in one shell that stays, against what Python finds of the same command line."""

import os
import shlex
import subprocess
from functools import cache

from tests.property.test_front_end import needs_nothing, wants

__all__ = ["check"]


@cache
def shell() -> "subprocess.Popen[bytes]":
    """The shell, with the function in it."""
    started = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdin is not None
    started.stdin.write(f"set -f\n{needs_nothing()}\n".encode())
    return started


def check(text: bytes, words: list[str], folder: str) -> None:
    """A configuration ``c`` and a command line: what Python finds to need grants is not left to xl."""
    os.chdir(folder)
    with open("c", "wb") as file:
        file.write(text)
    process = shell()
    assert process.stdin is not None
    assert process.stdout is not None
    line = f"cd {folder}; if needs_nothing 1 {shlex.join(words)}; then echo xl; else echo python; fi\n"
    process.stdin.write(os.fsencode(line))
    process.stdin.flush()
    said = process.stdout.readline()
    assert said in (b"xl\n", b"python\n")
    assert not (said == b"xl\n" and wants(words)), words
