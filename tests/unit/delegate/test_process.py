# SPDX-License-Identifier: LGPL-2.1-only
"""The process that serves, in this process and on ioreq servers in memory: how it starts, what it hears, and how it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.ioreq_in_memory import Access, Hub, MemChannels, MemDevices, MemMemory
from xlplug.commands.dm import DmOptions, dm
from xlplug.delegate import process
from xlplug.delegate.process import EXIT_GONE, Job, Placement, run
from xlplug.delegate.state import State
from xlplug.hook.delegate import start
from xlplug.model.bar import MEMORY32, Bar
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ApplyError, HostError, XenUnavailableError
from xlplug.xen import ioreq, lib
from xlplug.xen.ioreq import COPY, PCI_CONFIG, Request

ROOT = Path(__file__).parents[3]
DOMID, HOST, GUEST, AT = 7, Bdf(0, 3, 0, 0), Bdf(0, 0, 0x1D, 0), 0xF0000000
BAR = Bar(0, MEMORY32, 0xFE000000, 0xFE001000)
HEADER = bytes.fromhex("34121111") + bytes(60)


class Bench:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub = Hub()
        self.hub.domain(DOMID)
        (folder / str(HOST)).mkdir()
        (folder / str(HOST) / "driver").symlink_to("../pciback")
        self.resource = folder / str(HOST) / "resource0"
        self.resource.write_bytes(bytes(range(256)) * 16)
        state, self.fd = State.create(str(folder / "state"), 1)
        self.job = Job(DOMID, (Placement(HOST, GUEST, HEADER, (BAR,)),), state, str(folder), "test")
        self.confined: list[int] = []
        for name, kind in (("DeviceModel", MemDevices), ("ForeignMemory", MemMemory), ("EventChannels", MemChannels)):
            monkeypatch.setattr(process, name, lambda kind=kind: kind(self.hub))
        monkeypatch.setattr(process, "confine", self.confined.append)
        monkeypatch.setattr(process, "_ALIVE_SECONDS", 0.05)
        monkeypatch.setattr(ioreq, "_FETCH_SECONDS", 0)  # no vCPU here fetches an answer by itself
        self.ready, self.ready_write = os.pipe()
        self.control, self.control_write = os.pipe()

    def serve(self, during: Callable[[], None], *, adopt: bool = False, retire: bool = False) -> int:
        """Run, and do something from another thread once it is ready; that it was stopped by SIGTERM, or otherwise."""
        thread = threading.Thread(target=during, daemon=True)
        thread.start()
        try:
            return run(
                self.job,
                self.ready_write,
                self.control,
                adopt=adopt,
                retire=retire,
            )
        finally:
            thread.join(20)

    def wait_ready(self) -> None:
        assert os.read(self.ready, 100) == b"ready\n"

    def access(self, kind: int, addr: int, size: int = 4, value: int | None = None) -> int:
        made = self.hub.access(DOMID, kind, addr, size, value)
        return self.result(made)

    def result(self, made: Access) -> int:
        deadline = time.monotonic() + 20
        while (result := self.hub.result(made)) is None:
            assert time.monotonic() < deadline, "the vCPU waits"
            time.sleep(0.001)
        return result

    def place(self) -> None:
        self.access(PCI_CONFIG, GUEST.sbdf << 32 | 0x10, 4, AT)
        self.access(PCI_CONFIG, GUEST.sbdf << 32 | 4, 2, 2)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    before = signal.getsignal(signal.SIGTERM)
    made = Bench(tmp_path, monkeypatch)
    yield made
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, before)


def test_it_serves_until_it_is_stopped(bench: Bench) -> None:
    seen: list[int] = []

    def during() -> None:
        bench.wait_ready()
        seen.append(bench.access(PCI_CONFIG, GUEST.sbdf << 32))
        bench.place()
        seen.append(bench.access(COPY, AT + 4))
        bench.access(COPY, AT + 8, 2, 0x1234)
        stop()

    assert bench.serve(during) == 0
    assert seen == [0x11111234, 0x07060504]
    assert bench.resource.read_bytes()[8:12] == bytes.fromhex("34120a0b")
    assert bench.confined == [DOMID]
    assert [info.id for info in bench.hub.infos(DOMID)] == [0], "its server is gone"
    assert (bench.job.state.server, bench.job.state.pid) == (1, os.getpid())


def test_it_ends_with_the_guest(bench: Bench) -> None:
    def during() -> None:
        bench.wait_ready()
        bench.hub.domains.pop(DOMID)

    assert bench.serve(during) == EXIT_GONE


def test_it_goes_on_without_a_supervisor_and_without_a_device(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def during() -> None:
        bench.wait_ready()
        bench.place()
        os.write(bench.control_write, b"removed 0000:03:00.0\n")
        deadline = time.monotonic() + 20
        while bench.access(COPY, AT + 4) != 0xFFFFFFFF and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(bench.control_write)
        time.sleep(0.1)
        seen.append(bench.access(PCI_CONFIG, GUEST.sbdf << 32))
        stop()

    assert bench.serve(during) == 0
    assert seen == [0x11111234]
    assert capfd.readouterr().err.splitlines() == [
        "xlplug: test: 0000:03:00.0 is gone from the host; the guest reads all ones",
        "xlplug: test: the supervisor is gone; serving goes on, and nobody will take over from this process",
    ]


@pytest.mark.parametrize("how", ["absent", "another driver"])
def test_a_function_that_is_not_delegated_any_more_is_not_opened(bench: Bench, how: str) -> None:
    """It has its address, and is dom0's or another device by now."""
    seen: list[int] = []
    if how == "absent":
        bench.job = bench.job._replace(absent=frozenset({HOST}))
    else:
        (bench.resource.parent / "driver").unlink()
        (bench.resource.parent / "driver").symlink_to("../e1000e")

    def during() -> None:
        bench.wait_ready()
        bench.place()
        seen.append(bench.access(COPY, AT + 4))
        stop()

    assert bench.serve(during) == 0
    assert seen == [0xFFFFFFFF]


def test_a_mistake_of_ours_is_logged_and_the_guest_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    real = process.Model.answer

    def wrong(self: process.Model, request: Request) -> int | None:
        if request.addr & 0xFF == 8:
            raise RuntimeError("a mistake")
        return real(self, request)

    def during() -> None:
        bench.wait_ready()
        seen.extend(bench.access(PCI_CONFIG, GUEST.sbdf << 32 | register) & 0xFFFFFFFF for register in (8, 0))
        stop()

    monkeypatch.setattr(process.Model, "answer", wrong)
    assert bench.serve(during) == 0
    assert seen == [0xFFFFFFFF, 0x11111234]
    assert capfd.readouterr().err.endswith("RuntimeError: a mistake\n")


def test_a_log_that_nobody_reads_is_not_a_reason_to_stop(bench: Bench) -> None:
    seen: list[int] = []

    def during() -> None:
        bench.wait_ready()
        os.write(bench.control_write, b"removed 0000:03:00.0\n")
        time.sleep(0.1)
        seen.append(bench.access(PCI_CONFIG, GUEST.sbdf << 32))
        stop()

    kept = os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    os.close(read)
    try:
        assert bench.serve(during) == 0
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert seen == [0x11111234]


def test_what_cannot_start_says_why_and_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(domid: int) -> None:
        raise HostError("the user 'nobody' does not exist", hint="add it", code="XLP706")

    monkeypatch.setattr(process, "confine", refuses)
    assert bench.serve(lambda: None) == 3
    assert os.read(bench.ready, 200) == b"the user 'nobody' does not exist\0add it\0XLP706"
    assert [info.id for info in bench.hub.infos(DOMID)] == [0]


def test_a_successor_answers_what_waits(bench: Bench) -> None:
    """The first one dies without a word: its handles close, and its server stays."""
    seen: list[int] = []

    def first() -> None:
        bench.wait_ready()
        bench.place()
        stop()

    closing = process.IoreqServer.close
    try:
        process.IoreqServer.close = process.IoreqServer.abandon  # type: ignore[method-assign]
        assert bench.serve(first) == 0
    finally:
        process.IoreqServer.close = closing  # type: ignore[method-assign]
    waiting = bench.hub.access(DOMID, COPY, AT + 12, 4)
    assert bench.hub.result(waiting) is None
    bench.ready, bench.ready_write = os.pipe()

    def second() -> None:
        bench.wait_ready()
        seen.append(bench.result(waiting))
        stop()

    assert bench.serve(second, adopt=True) == 0
    assert seen == [0x0F0E0D0C]


def test_retiring_answers_and_destroys(bench: Bench) -> None:
    with MemDevices(bench.hub) as devices, MemMemory(bench.hub) as memory, MemChannels(bench.hub) as channels:
        server = process.IoreqServer(DOMID, devices, memory, channels)
        server.claim_pci(GUEST.sbdf)
        server.enable()
        server.abandon()
    bench.job.state.server = server.id
    bench.hub.access(DOMID, PCI_CONFIG, GUEST.sbdf << 32, 4)
    page = bench.hub.domains[DOMID].servers[server.id].page
    assert bench.serve(lambda: None, adopt=True, retire=True) == 0
    assert bytes(page[8:16]) == b"\xff" * 8
    assert [info.id for info in bench.hub.infos(DOMID)] == [0]


def test_the_wrapper_reads_why_a_delegate_did_not_start() -> None:
    with pytest.raises(
        ApplyError, match=r"^the delegate of domain 7 did not start: this machine does not run on Xen; "
    ):
        start(7, ())


def test_a_library_that_is_not_installed_is_named_before_anything_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lib._STABLE, "xenevtchn", (("libxenevtchn.so.99", "libxenevtchn99"),))
    with pytest.raises(XenUnavailableError) as caught:
        dm(DmOptions("7", ("03:00.0",)))
    assert str(caught.value) == ("libxenevtchn.so.99 is not installed; install it (Debian: libxenevtchn99) [XLP104]")


def test_the_packages_recommend_what_it_calls() -> None:
    control = (ROOT / "debian" / "control").read_text()
    recommended = control[control.index("Recommends:") : control.index("Suggests:")]
    for name in process.LIBRARIES:
        assert f" {lib._STABLE[name][0][1]}," in recommended, name
    spec = (ROOT / "packaging" / "xlplug.spec").read_text()
    assert "\nRecommends:     libseccomp\nRecommends:     xen-libs\n" in spec
