# SPDX-License-Identifier: LGPL-2.1-only
"""A configuration on its way through an unmodified xl: real memfds, real exec."""

import fcntl
import json
import os
import subprocess
import sys

import pytest

from xlplug.dom0.handover import VARIABLE, Handover, fill, keep, naming, offer, peek, reserve, take
from xlplug.model.errors import HostError

BIG = Handover(b"# \0 x\xff\n" * 150_000, "/etc/xen/g.cfg")  # over a megabyte, and no text


def given(handover: Handover, *others: int) -> dict[str, str]:
    return dict([offer(handover, *others)])


@pytest.mark.parametrize(
    "handover",
    [
        Handover(b"", ""),
        Handover(b'name="g"\n', "g.cfg", ("memory=64", 'name="a b"'), "/opt/qemu"),
        Handover(b"\0\0tail\0", "/dev/null", ("a=",)),
        Handover(b"1\0text", "g.cfg", ("a=",), "", b"\0parsed\0"),
        Handover(b"x", "/tmp/caf\udce9.cfg", ("k='\udcff'",)),  # not UTF-8
        BIG,
    ],
)
def test_what_is_offered_is_taken(handover: Handover) -> None:
    environment = given(handover)
    assert take(environment) == handover
    assert environment == {}


def test_what_an_earlier_xlplug_has_offered_is_taken() -> None:
    """By the daemon of a guest that was created before the upgrade, when the guest reboots."""
    data = b'xlplug-handover-1\0g.cfg\0/opt/qemu\0001\0memory=64\0name="g"\n5\0'
    environment = dict([naming(keep(data))])
    assert take(environment) == Handover(b'name="g"\n5\0', "g.cfg", ("memory=64",), "/opt/qemu")


@pytest.mark.parametrize("size", [b"x", b"-1", b"5", b""])
def test_a_length_that_is_wrong(size: bytes) -> None:
    environment = dict([naming(keep(b"xlplug-handover-2\0g.cfg\0\0000\0" + size + b"\0data"))])
    with pytest.raises(HostError, match="xlplug create"):
        take(environment)


def test_nothing_offered_is_nothing_taken() -> None:
    assert take({"PATH": "/bin"}) is None
    assert peek(os.getpid()) is None


def test_the_descriptor_is_high_sealed_and_gone_after_the_wrapper() -> None:
    other = keep(b"for xl alone")
    environment = given(Handover(b"data", "p"), other)
    fd, also = (int(word) for word in environment[VARIABLE].split(","))
    assert fd >= 64
    assert also == other >= 64
    assert os.get_inheritable(fd)
    with pytest.raises(PermissionError):
        os.write(fd, b"changed")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 15  # F_SEAL_SEAL, SHRINK, GROW, WRITE
    take(environment)
    assert not os.get_inheritable(fd)
    assert not os.get_inheritable(other)


def test_what_was_reserved_is_taken_when_it_is_filled() -> None:
    other = keep(b"for xl alone")
    fd = reserve()
    assert take(dict([naming(fd, other)])) is None, "not filled yet: as if nothing were offered"
    pid = os.fork()
    if pid == 0:
        fill(fd, BIG)
        os._exit(0)
    os.waitpid(pid, 0)
    assert take(dict([naming(fd, other)])) == BIG
    with pytest.raises(HostError, match="cannot be handed over"):
        fill(fd, BIG)


def test_it_is_taken_again_and_again() -> None:
    """By the probe, by the device model, and by those of each reboot: they share one offset."""
    environment = given(BIG)
    for _ in range(3):
        script = "import os; from xlplug.dom0.handover import take; print(len(take(os.environ).data))"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | environment,
            close_fds=False,
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"{len(BIG.data)}\n", done.stderr


def test_peek_reads_another_process() -> None:
    environment = given(BIG)
    script = "import os, time; os.write(1, b'.'); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | environment, close_fds=False, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        with process.stdout as output:
            output.read(1)
        assert peek(process.pid) == BIG
    finally:
        process.kill()
        process.wait()
    assert peek(process.pid) is None


@pytest.mark.parametrize(
    "value", ["", "x", "-1", "999999", "64,", "99999999999999999999", "\N{ARABIC-INDIC DIGIT TWO}"]
)
def test_a_variable_set_by_hand(value: str) -> None:
    with pytest.raises(HostError, match=f"{VARIABLE}=.* was not set by 'xlplug create'"):
        take({VARIABLE: value})


@pytest.mark.parametrize(
    "content",
    [b"xlplug-handover-1", b"xlplug-handover-0\0p\0\0000\0data", b"xlplug-handover-1\0p\0\0002\0one",
     b"xlplug-handover-1\0p\0\0x\0data", b"xlplug-handover-1\0p\0\0-1\0data", b'name="g"\n'],
)  # fmt: skip
def test_a_descriptor_of_something_else(content: bytes) -> None:
    fd = os.memfd_create("other")
    os.write(fd, content)
    with pytest.raises(HostError, match="was not set by 'xlplug create'"):
        take({VARIABLE: str(fd)})
    os.close(fd)


def test_peek_never_waits() -> None:
    """The variable may name a pipe without a writer: watching must go on."""
    pipe, end = os.pipe()
    os.set_inheritable(pipe, True)
    process = subprocess.Popen(["sleep", "60"], env={VARIABLE: str(pipe)}, close_fds=False)
    os.close(end)
    try:
        assert peek(process.pid) is None
    finally:
        process.kill()
        process.wait()
        os.close(pipe)


def test_what_cannot_be_handed_over_is_said() -> None:
    script = """
import json, resource
from xlplug.model.errors import HostError
from xlplug.dom0.handover import Handover, offer
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
try:
    offer(Handover(b"", "p"))
except HostError as error:
    print(json.dumps(str(error)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert json.loads(done.stdout).startswith("the config cannot be handed over: "), done.stderr
