# SPDX-License-Identifier: LGPL-2.1-only
"""Asks xenstored one thing without libxenstore, which waits for an answer without end, also after a signal."""

import errno
import os

__all__ = ["silent"]

_SECONDS = 10  # of patience: xenstored answers within a millisecond, and a live update takes less than a second
#: XS_READ of our own domid, request 0 of no transaction, with the length of what follows.  Source of the header:
#: xen/include/public/io/xs_wire.h, struct xsd_sockmsg.
_REQUEST = b"".join(word.to_bytes(4, "little") for word in (2, 0, 0, len(b"domid\0"))) + b"domid\0"
_RING = ("/dev/xen/xenbus", "/proc/xen/xenbus")


def silent() -> int:
    """Why a request to xenstored would get no answer: ECONNREFUSED, nobody serves its socket; ETIMEDOUT; 0 where it answers.

    Where there is no socket, the kernel's ring is asked, as libxenstore does: xenstored may run in another domain.  Anything
    else that goes wrong is left for libxenstore to find.  Source of the paths: tools/libs/store/xs.c.
    """
    folder = os.environ.get("XENSTORED_RUNDIR", "/run/xenstored")
    path = os.environ.get("XENSTORED_PATH", f"{folder}/socket")
    try:
        return _ask_socket(path)
    except ConnectionRefusedError:
        return errno.ECONNREFUSED
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        return 0
    for ring in _RING:
        if os.access(ring, os.R_OK):
            try:
                return _ask_ring(ring)
            except OSError:
                return 0
    return 0


def _ask_socket(path: str) -> int:
    import _socket  # socket itself adds enums, which takes milliseconds

    # A time limit of Python's own would make connect() fail at once where others wait to be let in.
    limit = _SECONDS.to_bytes(8, "little") + bytes(8)  # struct timeval
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        for option in (_socket.SO_SNDTIMEO, _socket.SO_RCVTIMEO):
            probe.setsockopt(_socket.SOL_SOCKET, option, limit)
        probe.connect(path)
        probe.sendall(_REQUEST)
        probe.recv(64)
    except BlockingIOError:
        return errno.ETIMEDOUT
    finally:
        probe.close()
    return 0


def _ask_ring(path: str) -> int:
    import select

    ring = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(ring, _REQUEST)
        poll = select.poll()
        poll.register(ring, select.POLLIN)
        return 0 if poll.poll(_SECONDS * 1000) else errno.ETIMEDOUT
    finally:
        os.close(ring)
