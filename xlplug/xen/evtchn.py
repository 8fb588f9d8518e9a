# SPDX-License-Identifier: LGPL-2.1-only
"""libxenevtchn: event channels, by which Xen and a device model wake one another."""

from xlplug.model.hypervisor import check_domid
from xlplug.xen.lib import StableHandle, check

__all__ = ["EventChannels"]


class EventChannels(StableHandle):
    """A handle on libxenevtchn; a context manager, to be closed, which unbinds every port.

    Raises:
        XenUnavailableError: the library is absent, or this is not a place to call Xen from.
    """

    def __init__(self) -> None:
        super().__init__("xenevtchn", "xen-evtchn")

    def fileno(self) -> int:
        """To be polled for reading: ready when `pending` has a port to give."""
        return check("xenevtchn_fd", self._lib.xenevtchn_fd(self._handle))

    def bind_interdomain(self, domid: int, remote_port: int) -> int:
        """Our own port, bound to another domain's.  One event is raised at once.

        Raises:
            XenError: EINVAL for a port that does not wait for this domain or is bound already, ESRCH for no such domain.
        """
        check_domid("xenevtchn_bind_interdomain", domid)
        result = self._lib.xenevtchn_bind_interdomain(self._handle, domid, remote_port)
        return check(
            "xenevtchn_bind_interdomain", result, f"domid={domid} port={remote_port}",
            hint="another process may serve it: see 'xlplug verify'",
        )  # fmt: skip

    def pending(self) -> int:
        """The next of our ports on which something happened; it waits for one, and the port stays masked until `unmask`."""
        return check("xenevtchn_pending", self._lib.xenevtchn_pending(self._handle))

    def unmask(self, port: int) -> None:
        """Let events through again.  Before looking for work, never after: an event in between would be lost."""
        check("xenevtchn_unmask", self._lib.xenevtchn_unmask(self._handle, port), f"port={port}")

    def notify(self, port: int) -> None:
        """Wake the other side.

        Raises:
            XenError: ENOTCONN for a port that is not ours.
        """
        check("xenevtchn_notify", self._lib.xenevtchn_notify(self._handle, port), f"port={port}", hint=_OURS)

    def unbind(self, port: int) -> None:
        """Give a port back.

        Raises:
            XenError: ENOTCONN for a port that is not ours.
        """
        check("xenevtchn_unbind", self._lib.xenevtchn_unbind(self._handle, port), f"port={port}", hint=_OURS)


_OURS = "use the port that bind_interdomain returned"
