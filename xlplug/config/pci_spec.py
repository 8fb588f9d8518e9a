# SPDX-License-Identifier: LGPL-2.1-only
"""xl's PCI_SPEC_STRING: ``[BDF[@vslot][,]] key=value,...``.

Accepts and rejects what libxlutil does (tools/libs/util/libxlu_pci.c, xlu_pci_parse_spec_string), oddities included.
Where libxlutil is undefined (a BDF without a function) this refuses.
"""

from typing import Any, NamedTuple, NoReturn

from xlplug.config.c_number import leading
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError

__all__ = ["PciSpec", "parse_pci_spec"]

_HINT = "write it as 00:02.0 or 0000:00:02.0, then key=value pairs after commas"
_NO_VMD = "switch VMD off in the firmware's setup"
_FLAGS = ("permissive", "seize", "msitranslate", "power_mgmt")
_POLICIES = ("strict", "relaxed", "invalid")


class PciSpec(NamedTuple):
    """One spec.  ``vslot`` is the guest's device number (0 to 0x1f); None where the spec does not say.

    ``misread``: flags with a value such as "yes" or "0x1", which libxlutil's atoi takes for 0.
    """

    bdf: Bdf | None = None
    all_functions: bool = False
    name: str | None = None
    vslot: int | None = None
    permissive: bool | None = None
    seize: bool | None = None
    msitranslate: bool | None = None
    power_mgmt: bool | None = None
    rdm_policy: str | None = None
    misread: tuple[str, ...] = ()


def parse_pci_spec(text: str) -> PciSpec:
    """Parse one spec.

    Raises:
        ConfigError: libxlutil rejects it, or is undefined on it.
    """
    return _Spec(text).parse()


class _Spec:
    def __init__(self, text: str) -> None:
        self.text = text

    def parse(self) -> PciSpec:
        if "\0" in self.text:
            self.fail("it has a NUL byte")
        spec = PciSpec()
        rest = self.text
        found = self.address(rest)
        if found is not None:
            bdf, every, rest = found
            spec = spec._replace(bdf=bdf, all_functions=every)
            if rest.startswith("@"):
                slot, rest = self.slot(rest[1:])
                spec = spec._replace(vslot=slot)
            if rest.startswith(","):
                rest = rest[1:]
            elif rest:
                self.fail(f"'{rest}' follows the address")
        at = 0  # and not what is left, because each copy of that would be as long as the text
        while at < len(rest):
            equals = rest.find("=", at)
            if equals < 0 and ":" in rest[at:]:
                self.fail(f"'{rest[at:]}' is not an address (bus up to ff, device up to 1f, function up to 7)")
            if equals < 0:
                self.fail(f"'{rest[at:]}' is not key=value")
            comma = rest.find(",", equals)
            end = len(rest) if comma < 0 else comma
            spec = self.option(spec, rest[at:equals], rest[equals + 1 : end])
            at = end + 1
        if (spec.bdf is None) == (spec.name is None):
            self.fail("it needs either an address or a name" if spec.bdf is None else "it has an address and a name")
        return spec

    def option(self, spec: PciSpec, key: str, value: str) -> PciSpec:
        if key in _FLAGS:
            truth: Any = bool(_c_atoi(value))
            fine = truth or (value and not value.strip("0")) or key in spec.misread
            return spec._replace(misread=spec.misread if fine else (*spec.misread, key), **{key: truth})
        if key == "bdf":
            found = self.address(value)
            if found is None:
                self.fail(f"'{value}' is not an address")
            return spec._replace(bdf=found[0], all_functions=found[1])
        if key == "vslot":
            return spec._replace(vslot=self.slot(value)[0])
        if key == "name":
            return spec._replace(name=value)
        if key == "rdm_policy" and value.lower() in _POLICIES:
            return spec._replace(rdm_policy=value.lower())
        if key == "rdm_policy":
            self.fail(f"rdm_policy '{value}' is not strict, relaxed or invalid")
        self.fail(f"unknown option '{key}'", "remove it: stock xl knows no such option (patched ones may)")

    def address(self, text: str) -> tuple[Bdf, bool, str] | None:
        """Bdf, whether all functions, and the rest; None where libxlutil's parse_bdf fails and options are tried.

        Blanks, signs and 0x within a number are sscanf's (%x), and so is the truncation to 32 bits.
        """
        head = len(text) - len(text.lstrip("0123456789abcdefABCDEF:"))
        colons = text[:head].count(":")
        if colons not in (1, 2):
            return None
        numbers: list[int] = []
        rest = text
        for i in range(colons + 1):
            number, rest = _scan(rest)
            if number is None:
                return None
            numbers.append(number)
            if i < colons and not rest.startswith(":"):
                return None
            if i < colons:
                rest = rest[1:]
        if not rest.startswith("."):
            self.fail("the function is missing")
        bus, device = numbers[-2:]
        segment = numbers[0] if colons == 2 else 0
        rest = rest[1:]
        if segment > 0xFFFF and colons == 2:
            self.fail("a segment above ffff is behind Intel VMD, and Xen and xl cannot name it", _NO_VMD)
        if segment > 0xFFFF or bus > 0xFF or device > 0x1F:
            return None
        if rest.startswith("*"):
            return Bdf(segment, bus, device, 0), True, rest[1:]
        function, rest = _scan(rest)
        if function is None or function > 7:
            return None
        return Bdf(segment, bus, device, function), False, rest

    def slot(self, text: str) -> tuple[int, str]:
        slot, rest = _scan(text)
        if slot is None or slot > 0x1F:
            self.fail(f"vslot '{text}' is not hexadecimal up to 1f")
        return slot, rest

    def fail(self, why: str, hint: str = _HINT) -> NoReturn:
        raise ConfigError(f"PCI device '{self.text}': {why}", text=self.text, hint=hint, code="XLP220")


def _c_atoi(text: str) -> int:
    """atoi(): strtol's 64 bits, which saturate, cut to 32."""
    number = leading(text, 10)[0] or 0
    return max(-(1 << 63), min(number, (1 << 63) - 1)) & 0xFFFFFFFF


def _scan(text: str) -> tuple[int | None, str]:
    """sscanf("%x"): a number, strtoul's 64 bits cut to 32, and what follows it; or None."""
    number, after = leading(text, 16)
    most = (1 << 64) - 1
    return (None if number is None else max(-most, min(number, most)) & 0xFFFFFFFF), after
