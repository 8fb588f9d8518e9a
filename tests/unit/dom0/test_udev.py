# SPDX-License-Identifier: LGPL-2.1-only
"""Changes of the host, as libudev reports them."""

import os
import socket

import pytest

from tests.abi.oracle import require
from xlplug.dom0.udev import Monitor

_KOBJECT_UEVENT, _GROUP_UDEV = 15, 2  # linux/netlink.h; systemd's src/libsystemd/sd-device/device-monitor.c


def send(many: int) -> None:
    """What is not udev's own passes its filter, and libudev drops it when it is read."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _KOBJECT_UEVENT) as sender:
            for _ in range(many):
                sender.sendto(b"x" * 64, (0, _GROUP_UDEV))
    except PermissionError:
        require("root", "only root may send events")


def test_more_events_than_the_socket_holds() -> None:
    """As when a card with hundreds of functions comes while the daemon waits for the lock: it goes on, and looks."""
    monitor = Monitor()
    assert monitor.drain() == []
    with socket.socket(fileno=os.dup(monitor.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes that the least that it allows
    for _ in range(2):
        send(50)
        assert ("lost", "") in monitor.drain()
        assert monitor.drain() == []


def test_a_socket_that_is_gone() -> None:
    monitor = Monitor()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, monitor.fileno())
    os.close(null)
    with pytest.raises(OSError, match=r"socket|poll"):
        monitor.drain()
