# SPDX-License-Identifier: LGPL-2.1-only
"""The stable libraries' bindings on the real Xen, beyond the contract: the programs of docs/bindings.md, and what a guest does."""

import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.puppet import BUFFER, Puppet, living
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.evtchn import EventChannels
from xlplug.xen.foreignmemory import ForeignMemory
from xlplug.xen.ioreq import ALL_ONES, COPY, INVALIDATE, PIO, IoreqServer, Request

DOC = Path(__file__).parents[3] / "docs" / "bindings.md"
PROGRAMS = {text.split()[1]: text for text in re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)}
MMIO = 0xF1000000


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Puppet]:
    with living(tmp_path_factory.mktemp("puppet"), "vcpus=2\n") as made:
        yield made


def program(folder: Path, name: str, *arguments: object) -> "subprocess.Popen[str]":
    path = folder / name
    path.write_text(PROGRAMS[name])
    argv = [sys.executable, str(path), *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_document_s_peek(puppet: Puppet, tmp_path: Path) -> None:
    puppet.memory(BUFFER, b"read from dom0.!")
    puppet.write(BUFFER, 0x21)
    out, err = program(tmp_path, "peek.py", puppet.domid, f"{BUFFER >> 12:x}").communicate(timeout=60)
    assert (out, err) == (b"!\0\0\0 from dom0.!".hex(" ") + "\n", "")
    out, err = program(tmp_path, "peek.py", puppet.domid, "90000").communicate(timeout=60)
    assert "gfn=0x90000+0x1: EINVAL" in err
    assert "xencall" not in err, "the library is quiet"


def test_the_document_s_port(puppet: Puppet, tmp_path: Path) -> None:
    with program(tmp_path, "port.py", puppet.domid, 3) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "server 2 for 2 vCPUs\n"
        assert [puppet.port(0x2F8) for _ in range(3)] == [1, 2, 3]
        assert process.wait(20) == 0
    assert puppet.port(0x2F8) == 0xFF, "nobody any more"


def test_the_document_s_device(puppet: Puppet, tmp_path: Path) -> None:
    with program(tmp_path, "device.py", puppet.domid, "1d", 2) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert puppet.config(0x1D << 3, 0, 4) == 0x11111234
        assert puppet.config(0x1D << 3, 11, 1) == 5
        assert process.wait(20) == 0
    assert puppet.config(0x1D << 3, 0, 4) == 0xFFFFFFFF


class Recorder:
    """A server of the test's own that writes down what it is asked."""

    def __init__(self, puppet: Puppet) -> None:
        self.handles = (DeviceModel(), ForeignMemory(), EventChannels())
        self.server = IoreqServer(puppet.domid, *self.handles)
        self.server.map_range(MMIO, MMIO + 0xFFF, memory=True)
        self.server.map_range(0x3000, 0x30FF, memory=False)
        self.server.enable()
        self.puppet, self.seen = puppet, list[Request]()

    def during(self, *what: object) -> tuple[list[Request], int]:
        """What is asked while the puppet does something, and the puppet's result."""
        self.seen.clear()
        self.puppet.begin(*what)  # type: ignore[arg-type]
        self.until(lambda: self.puppet.finished(0))
        return self.seen.copy(), self.puppet.finish()

    def until(self, reached: "Callable[[], bool]") -> None:
        """Serve until then."""
        deadline = time.monotonic() + 10
        while not reached():
            both = [self.server, self.puppet.server]
            ready = select.select(both, [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, self.seen
            if self.server in ready:
                self.server.serve(self.answer)
            else:
                self.puppet.serve()

    def answer(self, request: Request) -> int | None:
        self.seen.append(request)
        return None if request.pointer else 0x1122334455667788

    def close(self) -> None:
        self.server.close()
        for handle in reversed(self.handles):
            handle.close()


@pytest.fixture(scope="module")
def recorder(puppet: Puppet) -> Iterator[Recorder]:
    made = Recorder(puppet)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("what", "request_"),
    [
        (("read8", MMIO + 3), Request(0, COPY, MMIO + 3, 0, 1)),
        (("read64", MMIO + 8), Request(0, COPY, MMIO + 8, 0, 8)),
        (("write16", MMIO + 1, 0xABCD), Request(0, COPY, MMIO + 1, 0xABCD, 2, read=False)),
        (("in32", 0x3001), Request(0, PIO, 0x3001, 0, 4)),
        (("out8", 0x3002, 0x5A), Request(0, PIO, 0x3002, 0x5A, 1, read=False)),
        (("movs_from", MMIO, BUFFER, 5), Request(0, COPY, MMIO, BUFFER, 4, 5, pointer=True)),
        (("movs_to", MMIO, BUFFER, 5), Request(0, COPY, MMIO, BUFFER, 4, 5, read=False, pointer=True)),
        (
            ("movs_back", MMIO + 16, BUFFER + 16, 4),
            Request(0, COPY, MMIO + 16, BUFFER + 16, 4, 4, pointer=True, backwards=True),
        ),
        (("ins8", 0x3000, BUFFER, 7), Request(0, PIO, 0x3000, BUFFER, 1, 7, pointer=True)),
        (("outs32", 0x3000, BUFFER, 2), Request(0, PIO, 0x3000, BUFFER, 4, 2, read=False, pointer=True)),
        (("stos32", MMIO, 0x77, 3), Request(0, COPY, MMIO, 0x77, 4, 3, read=False)),
    ],
    ids=lambda what: what[0],
)
def test_what_an_instruction_asks(recorder: Recorder, what: tuple[object, ...], request_: Request) -> None:
    seen, _ = recorder.during(*what)
    ours = [one._replace(data=request_.data) if one.read and not one.pointer else one for one in seen]
    assert ours == [request_]


def test_an_answer_arrives_in_full_width(recorder: Recorder) -> None:
    assert recorder.during("read64", MMIO)[1] == 0x1122334455667788
    assert recorder.during("read16", MMIO)[1] & 0xFFFF == 0x7788
    first, second = recorder.during("xadd32", MMIO, 1)[0]
    assert (first.read, second.read, second.data) == (True, False, 0x55667789)


def test_an_access_that_is_not_wholly_ours_is_nobody_s(recorder: Recorder) -> None:
    assert recorder.puppet.do("in32", 0x30FE) == 0xFFFFFFFF
    assert recorder.seen == [] or recorder.seen[-1].addr != 0x30FE


def test_a_vcpu_waits_for_its_answer_and_for_nothing_else(recorder: Recorder) -> None:
    puppet = recorder.puppet
    puppet.start_cpu(1)
    puppet.begin("read32", MMIO, vcpu=1)
    assert puppet.waiting(1)
    assert puppet.read(BUFFER + 4) == int.from_bytes(puppet.memory(BUFFER + 4, size=4), "little"), "vCPU 0 goes on"
    recorder.server.serve_all(recorder.answer)
    assert puppet.finish(vcpu=1) & 0xFFFFFFFF == 0x55667788


def test_a_change_of_the_guest_s_memory_is_told(recorder: Recorder) -> None:
    """XENMEM_decrease_reservation of one page: source, xen/include/public/memory.h."""
    puppet, gfn = recorder.puppet, 0x300
    reservation = b"".join(word.to_bytes(4, "little") for word in (BUFFER + 0x100, 1, 0, 0, 0x7FF0))
    puppet.memory(BUFFER, reservation)
    puppet.memory(BUFFER + 0x100, gfn.to_bytes(4, "little"))
    puppet.do("hypercall_page")
    recorder.seen.clear()
    puppet.begin("hypercall", BUFFER, 1, 12)
    recorder.until(lambda: INVALIDATE in [request.kind for request in recorder.seen])
    assert puppet.finish() & 0xFFFFFFFF == 1


def test_a_guest_that_is_stopped_gets_all_ones(recorder: Recorder) -> None:
    puppet = recorder.puppet
    puppet.begin("read32", MMIO + 4)
    assert puppet.waiting()
    recorder.server.stop()
    assert puppet.finish() & 0xFFFFFFFF == ALL_ONES & 0xFFFFFFFF
    assert puppet.read(MMIO) == 0xFFFFFFFF
