# SPDX-License-Identifier: LGPL-2.1-only
"""Delegates whose supervisor dies, as the daemon sees it: real processes for supervisors, a pipe for who takes over."""

import contextlib
import os
import select
import subprocess
from collections.abc import Iterator

import pytest

from tests.unit.fakes import xenstore
from xlplug.delegate import record
from xlplug.delegate.record import DelegateProcess, RecordedDevice
from xlplug.model.bdf import Bdf
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.problem import Problem
from xlplug.watch.delegates import Delegates
from xlplug.watch.guests import ERROR, WARNING, World
from xlplug.xen.in_memory import MemXen

NODE = "/libxl/7/xlplug-devices/delegate-process/started"


class Scene:
    """A daemon's loop, one turn at a time."""

    def __init__(self) -> None:
        self.xen, self.store = MemXen((4, 17)), xenstore()
        self.lines: list[tuple[int, str]] = []
        self.watched: list[str] = []
        self.changed: list[str] = []
        self.spawned: list[int] = []
        self.answers: list[int] = []
        self.fds: set[int] = set()
        world = World(
            self.xen, self.store, self, self.watch, self.watched.remove, lambda info, name: None, lambda info: None,
            lambda config: None, contextlib.nullcontext, lambda p, text: self.lines.append((p, text)), lambda *_: None,
        )  # type: ignore[arg-type] # fmt: skip
        self.delegates = Delegates(world, self.fds.add, self.fds.remove, self.spawn)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.xen.add_domain(DomainInfo(7, hvm=True, uuid="u7"))

    def pause(self, domid: int) -> None: ...
    def unpause(self, domid: int) -> None: ...

    def watch(self, path: str) -> None:
        self.watched.append(path)
        self.changed.append(path)  # xenstored sends the first event at once

    def spawn(self, domid: int) -> int:
        self.spawned.append(domid)
        read, write = os.pipe()
        self.answers.append(write)
        return read

    def answer(self, text: bytes) -> None:
        write = self.answers.pop()
        os.write(write, text)
        os.close(write)

    def supervisor(self, uuid: str = "u7") -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(["sleep", "600"])
        self.processes.append(process)
        started = record.process_started(process.pid) or 0
        made = DelegateProcess(1, process.pid, started, "/run/xlplug/dm-7.state")
        record.write_delegate(self.store, 7, uuid, 0, (RecordedDevice(Bdf(0, 3, 0, 0), (), Bdf(0, 0, 29, 0)),), made)
        self.changed.append(NODE)
        return process

    def turn(self, *present: int, wait: float = 0) -> None:
        """What is readable, and then what has changed."""
        for fd in select.select(self.fds, [], [], wait)[0]:
            self.delegates.ready(fd)
        changed, self.changed = self.changed, []
        self.delegates.look(present, changed)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.end()
    for fd in (*made.fds, *made.answers):
        os.close(fd)


def follow(scene: Scene) -> "subprocess.Popen[bytes]":
    scene.turn(7)
    process = scene.supervisor()
    scene.turn(7)
    assert len(scene.fds) == 1
    return process


def test_a_supervisor_that_is_killed_is_replaced_once(scene: Scene) -> None:
    process = follow(scene)
    process.kill()
    process.wait()
    scene.turn(7, wait=20)
    assert scene.spawned == [7]
    assert scene.lines == [
        (WARNING, f"domain 7: the delegate's supervisor, process {process.pid}, is dead; taking over"),
    ]
    scene.answer(b"0000:03:00.0 at 0000:00:1d.0\nready\n")
    scene.turn(7, wait=20)
    scene.changed.append(NODE)  # somebody looks again before the new record is there
    scene.turn(7)
    second = scene.supervisor()
    scene.turn(7)
    assert (scene.spawned, len(scene.lines), len(scene.fds)) == ([7], 1, 1)
    second.kill()
    second.wait()
    scene.turn(7, wait=20)
    assert scene.spawned == [7, 7]
    scene.answer(b"ready\n")


def test_one_that_was_dead_before_the_daemon_came(scene: Scene) -> None:
    process = scene.supervisor()
    process.kill()
    process.wait()
    scene.turn(7)
    scene.turn(7)
    assert scene.spawned == [7]
    scene.answer(b"ready\n")


def test_why_nobody_could_take_over(scene: Scene) -> None:
    process = follow(scene)
    process.kill()
    process.wait()
    scene.turn(7, wait=20)
    gone = "refused: /run/xlplug/dm-7.state is gone, so nobody can go on from it"
    scene.answer(f"{Problem(gone, 'restart the guest', 'XLP717').packed()}\n".encode())
    scene.turn(7, wait=20)  # the words
    scene.turn(7, wait=20)  # their end
    assert scene.lines[1] == (
        ERROR, f"domain 7: nobody could take over its delegate: {gone}; restart the guest [XLP717]",
    )  # fmt: skip
    scene.turn(7)
    assert (scene.spawned, scene.fds) == ([7], set())


def test_one_that_ends_without_a_word(scene: Scene) -> None:
    process = follow(scene)
    process.kill()
    process.wait()
    scene.turn(7, wait=20)
    scene.answer(b"")
    scene.turn(7, wait=20)
    assert scene.lines[1][1].endswith("it ended without a word")


def test_a_delegate_that_was_stopped_is_not_replaced(scene: Scene) -> None:
    process = follow(scene)
    record.forget_delegate(scene.store, 7)
    scene.changed.append(NODE)
    process.kill()
    process.wait()
    scene.turn(7, wait=20)
    assert (scene.spawned, scene.fds) == ([], set())


@pytest.mark.parametrize("what", ["another guest", "dying", "gone"])
def test_a_guest_that_is_not_the_one_any_more(scene: Scene, what: str) -> None:
    process = follow(scene)
    if what == "another guest":
        scene.xen.add_domain(DomainInfo(7, hvm=True, uuid="u8"))
    elif what == "dying":
        scene.xen.add_domain(DomainInfo(7, hvm=True, dying=True, uuid="u7"))
    else:
        scene.xen._domains.pop(7)
    process.kill()
    process.wait()
    scene.turn(7, wait=20)
    assert scene.spawned == []


def test_a_domain_that_goes_is_let_go_of(scene: Scene) -> None:
    follow(scene)
    scene.turn()
    assert (scene.watched, scene.fds) == ([], set())


def test_a_record_that_is_damaged_is_reported(scene: Scene) -> None:
    scene.supervisor()
    scene.store.write("/libxl/7/xlplug-devices/delegate-process/pid", "many")
    scene.turn(7)
    scene.turn(7)
    ((priority, line),) = scene.lines
    assert (priority, "is not as xlplug writes it" in line) == (ERROR, True)
