# SPDX-License-Identifier: LGPL-2.1-only
"""What this package uses of ``typing`` while it runs, for the processes that run while a domain is being created.

``typing`` imports re, collections, functools and contextlib, which takes as long as Python's own start, and then 0.1 ms for
each NamedTuple.  `install` puts this module in its place for one process, before anything else of ours is imported.  mypy and
all other processes see the real one.  Whoever asks for something that is not here gets the real one too, from then on.

``collections.abc`` is treated likewise: its classes are there from the start, and only its package takes long to load.

A test holds `NamedTuple` to the behaviour of the real one.
"""

import _collections_abc
import sys
from _collections import _tuplegetter  # type: ignore[import-not-found] # in C: collections.namedtuple uses it as well

__all__ = ["install", "uninstall"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_new_tuple = tuple.__new__


def install() -> None:
    """Become ``typing`` where that has not been imported yet."""
    sys.modules.setdefault("typing", sys.modules[__name__])
    sys.modules.setdefault("collections.abc", _collections_abc)


def uninstall() -> None:
    """Let what is imported from now on have the real one."""
    if sys.modules.get("typing") is sys.modules[__name__]:
        del sys.modules["typing"]
    if sys.modules.get("collections.abc") is _collections_abc:
        import collections

        collections.abc = _collections_abc  # Python itself does so from 3.13 on


def __getattr__(name: str) -> object:
    if name.startswith("__"):  # Python's own questions about a module
        raise AttributeError(name)
    uninstall()
    import typing

    return getattr(typing, name)


def cast(kind: object, value: object) -> object:
    """The value."""
    return value


class _Form:
    """Stands in annotations, which nobody looks at."""

    def __getitem__(self, parameters: object) -> "_Form":
        return self

    def __or__(self, other: object) -> "_Form":
        return self

    __ror__ = __or__


Any = NoReturn = Self = TypeAlias = _Form()


def TypeVar(name: str) -> _Form:  # noqa: N802 - typing's name
    """Stands in annotations as well."""
    return _Form()


class Protocol:
    """A class that others need not inherit from."""


class _Meta(type):
    """Makes a tuple with named fields of a class that is written like one of ``typing.NamedTuple``."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
        if not bases:
            return type.__new__(cls, name, bases, body)  # NamedTuple itself
        fields = _fields(body)
        defaults = {field: body[field] for field in fields if field in body}
        body |= {field: _tuplegetter(index, "") for index, field in enumerate(fields)}
        body |= {
            "__slots__": (), "__match_args__": fields, "_fields": fields, "_field_defaults": defaults,
            "__new__": _constructor(name, fields, defaults),
        }  # fmt: skip
        return type(name, (_Tuple,), body)


def _fields(body: dict[str, object]) -> tuple[str, ...]:
    """The names with annotations, which from Python 3.14 on only a function knows (PEP 649); its format 1 is VALUE."""
    annotate: Callable[[int], Iterable[str]] | None = body.get("__annotate_func__")  # type: ignore[assignment]
    found: Iterable[str] = annotate(1) if annotate else body.get("__annotations__", ())  # type: ignore[assignment]
    return tuple(found)


def _constructor(name: str, fields: tuple[str, ...], defaults: dict[str, object]) -> object:
    count, last = len(fields), tuple(defaults.values())

    def __new__(cls: type, *given: object, **named: object) -> object:  # noqa: N807 - is one
        lacking = count - len(given)
        if lacking and not named and 0 < lacking <= len(last):
            given += last[len(last) - lacking :]
        elif lacking or named:
            values = list(given)
            for field in fields[len(given) :]:
                if field in named:
                    values.append(named.pop(field))
                elif field in defaults:
                    values.append(defaults[field])
            if len(values) != count or named:
                raise TypeError(f"{name}({', '.join(fields)}) was called with {given} and {named}")
            return _new_tuple(cls, values)
        return _new_tuple(cls, given)

    return __new__


class _Tuple(tuple):  # type: ignore[type-arg]
    __slots__ = ()

    def _replace(self, **changes: object) -> "_Tuple":
        made: _Tuple = _new_tuple(type(self), map(changes.pop, self._fields, self))  # type: ignore[attr-defined]
        if changes:
            raise ValueError(f"Got unexpected field names: {list(changes)}")
        return made

    def _asdict(self) -> dict[str, object]:
        return dict(zip(self._fields, self, strict=True))  # type: ignore[attr-defined]

    @classmethod
    def _make(cls, values: "Iterable[object]") -> "_Tuple":
        made: _Tuple = _new_tuple(cls, values)
        if len(made) != len(cls._fields):  # type: ignore[attr-defined]
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")  # type: ignore[attr-defined]
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

    def __getnewargs__(self) -> tuple[object, ...]:
        return tuple(self)


class NamedTuple(metaclass=_Meta):
    """To be inherited from, as ``typing.NamedTuple`` is."""
