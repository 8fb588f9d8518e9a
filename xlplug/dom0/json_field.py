# SPDX-License-Identifier: LGPL-2.1-only
"""A JSON value that knows its own name, so that an error about a recording can name the field."""

from typing import NoReturn

from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError, HostError
from xlplug.model.rangeset import RangeSet

_MAX = 1 << 64


class Field:
    """A JSON value, its name, and the file that it is from."""

    __slots__ = ("name", "path", "value")

    def __init__(self, value: object, path: str, name: str) -> None:
        self.value = value
        self.path = path
        self.name = name

    def bad(self, why: str) -> NoReturn:
        raise HostError(
            f"{self.path}: {self.name or 'the whole'} {why}", hint="see docs/recording.md for the format", code="XLP805"
        )

    def schema(self, wanted: str) -> None:
        found = self.get("schema").value
        if found != wanted:
            self.bad(f"has schema {found!r}, this xlplug reads {wanted!r}")

    def get(self, key: str) -> "Field":
        if not isinstance(self.value, dict):
            self.bad("is not an object")
        if key not in self.value:
            self.bad(f"lacks '{key}'")
        return Field(self.value[key], self.path, f"{self.name}.{key}" if self.name else key)

    def list(self) -> "list[Field]":
        if not isinstance(self.value, list):
            self.bad("is not a list")
        return [Field(item, self.path, f"{self.name}[{i}]") for i, item in enumerate(self.value)]

    def dict(self) -> "dict[str, Field]":
        if not isinstance(self.value, dict):
            self.bad("is not an object")
        return {key: Field(item, self.path, f"{self.name}.{key}") for key, item in self.value.items()}

    def int(self, limit: int = _MAX) -> "int":
        value = self.value
        if type(value) is not int:
            self.bad("is not an integer")
        if not 0 <= value <= limit:
            self.bad(f"is out of range ({value})")
        return value

    def str(self) -> "str":
        if not isinstance(self.value, str):
            self.bad("is not text")
        return self.value

    def hex(self) -> bytes:
        text = self.str()
        try:
            return bytes.fromhex(text)
        except ValueError:
            self.bad("is not hexadecimal")

    def bdf(self) -> Bdf:
        try:
            return Bdf.parse(self.str())
        except ConfigError as error:
            self.bad(f"is not a PCI address ({error.message})")

    def bool_or_none(self) -> bool | None:
        if self.value is not None and not isinstance(self.value, bool):
            self.bad("is neither true, false nor null")
        return self.value

    def ranges(self) -> RangeSet:
        pairs = [entry.list() for entry in self.list()]
        try:
            return RangeSet([(start.int(), stop.int()) for start, stop in pairs])
        except ValueError:
            self.bad("is not a list of [start, stop]")
