# SPDX-License-Identifier: LGPL-2.1-only
"""Finding out whether xenstored answers; what it answers is in tests/contract."""

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from xlplug.xen import alive


@pytest.fixture(params=["XENSTORED_PATH", "XENSTORED_RUNDIR"])
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "socket"
    monkeypatch.setenv(request.param, str(path if request.param == "XENSTORED_PATH" else tmp_path))
    monkeypatch.setattr(alive, "_RING", ())
    return path


def test_no_socket(path: Path) -> None:
    assert alive.silent() == 0, "xenstored may be in another domain"


def test_a_socket_that_nobody_serves(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert alive.silent() == errno.ECONNREFUSED


def test_one_that_answers(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        asked = []

        def serve() -> None:
            client, _ = server.accept()
            with client:
                asked.append(client.recv(64))
                client.sendall(b"\2" + bytes(15))

        thread = threading.Thread(target=serve)
        thread.start()
        before = os.listdir("/proc/self/fd")
        assert alive.silent() == 0
        thread.join()
        assert len(os.listdir("/proc/self/fd")) <= len(before)
    assert asked == [b"\2\0\0\0" + bytes(8) + b"\6\0\0\0domid\0"]


@pytest.mark.parametrize("waiting", [0, 8])
def test_one_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch, waiting: int) -> None:
    """With more clients before us than the kernel lets in, too."""
    monkeypatch.setattr(alive, "_SECONDS", 1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(waiting)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        assert alive.silent() == errno.ETIMEDOUT
        for client in clients:
            client.close()


@pytest.mark.parametrize(("request_", "number"), [(alive._REQUEST, 0), (b"", errno.ETIMEDOUT)])
def test_a_ring(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: bytes, number: int) -> None:
    """Where there is no socket.  In the place of the kernel's a FIFO, which has to read what was written to it."""
    ring = tmp_path / "ring"
    os.mkfifo(ring)
    monkeypatch.setattr(alive, "_RING", (str(tmp_path / "none"), str(ring)))
    monkeypatch.setattr(alive, "_SECONDS", 1)
    monkeypatch.setattr(alive, "_REQUEST", request_)
    assert alive.silent() == number
