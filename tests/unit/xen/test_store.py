# SPDX-License-Identifier: LGPL-2.1-only
"""Finding xenstored; what it answers is in tests/contract."""

import errno
import os
import socket
from pathlib import Path

import pytest

from xlplug.xen import store
from xlplug.xen.lib import ffi


@pytest.mark.parametrize("variable", ["XENSTORED_PATH", "XENSTORED_RUNDIR"])
def test_a_socket_that_nobody_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    path = tmp_path / "socket"
    monkeypatch.setenv(variable, str(path if variable == "XENSTORED_PATH" else tmp_path))
    assert not store._is_dead(), "there is none: xenstored may be in another domain"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        before = os.listdir("/proc/self/fd")
        assert not store._is_dead()
        assert os.listdir("/proc/self/fd") == before
    assert store._is_dead()
    assert ffi.errno == errno.ECONNREFUSED
