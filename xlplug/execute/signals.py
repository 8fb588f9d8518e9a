# SPDX-License-Identifier: LGPL-2.1-only
"""Ctrl-C, SIGTERM and SIGHUP wait while Xen is changed, and are let in between two steps only.

Otherwise the second Ctrl-C of an impatient user ends the undo that the first one has caused, and SIGHUP ends it when the
terminal goes away.
"""

import _signal as signal  # type: ignore[import-not-found] # its own functions; signal adds enums, which takes 3 ms

__all__ = ["Waiting", "keep_waiting"]

_SIGNALS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


class Waiting:
    """A context in which the signals are blocked.  What comes when the work is done does not change how it ended.

    A signal whose handler returns (the daemon's do) is not lost: the kernel delivers it at the end.
    """

    def __enter__(self) -> "Waiting":
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        except BaseException:  # one that had come before, raised once the mask was set
            _set(self._before)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:  # noqa: SIM105 - contextlib would have to be loaded
            self.let_in()
        except KeyboardInterrupt:
            pass
        _set(self._before)

    def let_in(self) -> None:
        """Call the handlers of what has come meanwhile; the place where an interrupted run stops.

        Raises:
            KeyboardInterrupt: a handler did.
        """
        returned = []
        try:
            for number in signal.sigpending() & _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    signal.sigwait((number,))  # it is pending, so this takes it away and does not wait
                    handler(number, None)
                    returned.append(number)
        finally:
            for number in returned:
                signal.raise_signal(number)


def keep_waiting() -> None:
    """Block the signals until the process ends, for a command that prints a result and ends when its work is done.

    While the work goes on, `Waiting.let_in` still lets them in.

    Raises:
        KeyboardInterrupt: one came just before; nothing has begun.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _set(mask: set[int]) -> None:
    """Set the mask, whoever raises meanwhile."""
    while True:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except KeyboardInterrupt:
            continue
        return
