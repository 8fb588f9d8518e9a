# SPDX-License-Identifier: LGPL-2.1-only
"""A `DomainConfig` as bytes, so that the wrapper need not parse again what the front end has parsed.

Parsing costs the wrapper little; loading the parser, and re for it, a third of its start.  The bytes travel beside the text in
the same sealed descriptor (handover.py), from one xlplug to the same one; any other takes the text.
"""

import marshal
import sys
from typing import Any

from xlplug.config import domain
from xlplug.config.delegated import Spec
from xlplug.config.domain import DomainConfig
from xlplug.model.bdf import Bdf
from xlplug.model.problem import Problem
from xlplug.model.rangeset import Range

__all__ = ["freeze", "thaw"]

_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (DomainConfig, domain.PciAssignment, domain.IomemRange, domain.Vif, Spec, Bdf, Range, Problem)
}
#: Of which xlplug the bytes are, as far as it matters, and of which Python: marshal's format is its own.
_MADE_BY = repr((sys.implementation.cache_tag, [(name, kind._fields) for name, kind in _KINDS.items()]))


def freeze(config: DomainConfig) -> bytes:
    """The configuration as bytes."""
    return marshal.dumps((_MADE_BY, _plain(config)))


def thaw(data: bytes) -> DomainConfig | None:
    """The configuration again; None where there is none, or another xlplug or Python has made it."""
    try:
        made_by, plain = marshal.loads(data)  # noqa: S302 - of our own descriptor, which is sealed
        value = _restored(plain) if made_by == _MADE_BY else None
    except (EOFError, ValueError, TypeError, KeyError):
        return None
    return value if isinstance(value, DomainConfig) else None


def _plain(value: Any) -> Any:  # noqa: ANN401 - what a field may hold
    """Tuples with the name of their kind in front, which marshal does not keep; "" where they have none."""
    if not isinstance(value, tuple):
        return value
    name = type(value).__name__ if hasattr(value, "_fields") else ""
    return (name, *map(_plain, value))


def _restored(value: Any) -> Any:  # noqa: ANN401 - as above
    if not isinstance(value, tuple):
        return value
    name, *items = value
    restored = map(_restored, items)
    return _KINDS[name](*restored) if name else tuple(restored)
