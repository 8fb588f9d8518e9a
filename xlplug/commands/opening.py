# SPDX-License-Identifier: LGPL-2.1-only
"""Xen and xenstore for a command, where they may be absent or dead."""

from collections.abc import Iterator
from contextlib import contextmanager

from xlplug.doctor.reading import Missing
from xlplug.doctor.survey_xenstored import xenstored_answer
from xlplug.model.errors import StoreError, XenUnavailableError
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.store import XenStore

__all__ = ["answering_store", "readable_xen"]


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


@contextmanager
def answering_store() -> Iterator[XenStore]:
    """xenstore, asked first whether it answers: a request to a dead xenstored never returns.

    Raises:
        StoreError: it does not.
    """
    found = xenstored_answer(XenStore)
    if isinstance(found, Missing):
        raise StoreError(found.what, hint=found.advice, code=found.code)
    with XenStore() as store:
        yield store
