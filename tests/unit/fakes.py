# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-ins for xl and QEMU: tiny programs that write down how they were started; and a xenstore with a guest in it."""

from pathlib import Path
from typing import NamedTuple

from xlplug.xen.in_memory import MemStore

# Dash blocks signals while it waits for a child and holds the script open, so: builtins first, and not that descriptor.
_SCRIPT = """#!/bin/dash
while read -r key value; do
    case $key in Sig*) signals="$signals$key$value\n" ;; esac
done </proc/$$/status
fds=
for fd in /proc/$$/fd/*; do
    [ -e $fd ] && ! [ $fd -ef {base} ] && fds="$fds ${{fd##*/}}"
done
printf "$signals" >{base}.signals
cat /proc/$$/cmdline /proc/$$/environ >{base}.started
printf '%s\n' $# $$ "$fds" >{base}.numbers
{then}
"""


# SIGCANCEL and SIGSETXID of glibc (nptl/internal-signals.h).
_INTERNAL = 1 << (32 - 1) | 1 << (33 - 1)


class Record(NamedTuple):
    """How a recorder was started: ``argv`` without the interpreter, descriptors open, masks of signals as in /proc.

    Without signals 32 and 33: they are the C library's own, whose posix_spawn has them ignored in what it starts (GNU make
    uses it), and nobody can set them back.
    """

    argv: list[str]
    environment: dict[str, str]
    ignored: int
    blocked: int
    fds: list[int]
    pid: int


class Recorder(NamedTuple):
    path: str

    @property
    def ran(self) -> bool:
        return Path(f"{self.path}.numbers").exists()

    def forget(self) -> None:
        """As if it had not been started yet."""
        Path(f"{self.path}.numbers").unlink(missing_ok=True)

    def read(self) -> Record:
        def read(kind: str) -> str:
            return Path(f"{self.path}.{kind}").read_bytes().decode("utf-8", "surrogateescape")

        masks = dict(line.split(":") for line in read("signals").splitlines())
        count, pid, fds = read("numbers").splitlines()
        started = read("started").split("\0")[:-1]
        end = 2 + int(count)  # of argv: the interpreter, the script and its arguments
        return Record(
            started[1:end],
            dict(word.split("=", 1) for word in started[end:]),
            int(masks["SigIgn"], 16) & ~_INTERNAL,
            int(masks["SigBlk"], 16),
            sorted(int(word) for word in fds.split()),
            int(pid),
        )


def recorder(path: Path, then: str = "exit 0") -> Recorder:
    """A program at ``path`` that records how it is started, then does ``then``."""
    path.write_text(_SCRIPT.format(base=path, then=then))
    path.chmod(0o755)
    return Recorder(str(path))


def xenstore(target: int = 7, stubdom: int = 8) -> MemStore:
    """What libxl has written for a guest and its stubdomain, as far as grants look at it."""
    store = MemStore()
    store.write(f"/local/domain/{target}/name", "g")
    store.write(f"/local/domain/{stubdom}/target", str(target))
    return store
