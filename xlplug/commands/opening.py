# SPDX-License-Identifier: LGPL-2.1-only
"""Xen and xenstore for a command, where they may be absent."""

from collections.abc import Iterator
from contextlib import contextmanager

from xlplug.model.errors import XenUnavailableError
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.store import XenStore

__all__ = ["readable_xen"]


@contextmanager
def readable_xen() -> Iterator[tuple[XenCtrl | None, XenStore | None]]:
    """Xen and xenstore where they can be opened; planning goes on without."""
    try:
        xen = XenCtrl()
    except XenUnavailableError:
        yield None, None
        return
    with xen, XenStore() as store:
        yield xen, store
