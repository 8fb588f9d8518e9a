# SPDX-License-Identifier: LGPL-2.1-only
"""Which functions are delegated, as the command line and the config key name them: ``BDF[,vslot=NN[.F]]``."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError

__all__ = ["SLOTS_OF_QEMU", "SLOT_FIRST", "SLOT_ISA_BRIDGE", "Spec", "parse_spec", "place"]

#: Where a device model puts the ISA bridge of an Intel display.  Source: QEMU, docs/igd-assign.txt.
SLOT_ISA_BRIDGE = 0x1F
SLOT_FIRST = 0x1E  #: chosen from here downwards
#: A config's delegate starts before QEMU, which then gives its devices the first slots that it has free itself.  A guest with
#: a display, two network cards, USB and sound has fewer than so many.  `xlplug verify` finds what collides all the same.
SLOTS_OF_QEMU = 8
_HINT = "write BDF[,vslot=NN[.F]], for example 0000:03:00.0,vslot=1d"


class Spec(NamedTuple):
    """A host function, and where the guest is to see it on bus 0: device ``slot`` (None: any free one), ``function``."""

    host: Bdf
    slot: int | None = None
    function: int = 0

    def __str__(self) -> str:
        """What `parse_spec` reads."""
        return str(self.host) if self.slot is None else f"{self.host},vslot={self.slot:x}.{self.function}"


def parse_spec(text: str, *, vslot: str | None = None) -> Spec:
    """Read one function's specification; ``vslot`` is that of the command line's option.

    Raises:
        ConfigError: it is anything else, or asks for what a delegate cannot do.
    """
    head, *options = [part.strip() for part in text.split(",")]
    host = Bdf.parse(head)
    for option in options:
        key, equals, value = (part.strip() for part in option.partition("="))
        if key == "vslot" and equals:
            if vslot is not None:
                raise ConfigError(f"'{text}' has a vslot twice", hint=_HINT, code="XLP230")
            vslot = value
        elif key in ("dma", "irq", "msi"):
            raise ConfigError(
                f"'{text}' asks for {key}, which no stable interface of Xen has for a delegate",
                hint="leave it out, or assign the device with pci=[...]",
                code="XLP230",
            )
        else:
            raise ConfigError(f"'{text}' has an option that is not known, '{option}'", hint=_HINT, code="XLP230")
    if vslot is None:
        return Spec(host)
    import re  # the hook loads this module for `Spec` alone, and re takes longest of all

    match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{1,2})(?:\.([0-7]))?", vslot)
    if match is None or not 1 <= int(match[1], 16) <= 0x1F:
        raise ConfigError(
            f"'{vslot}' is not a slot of a guest",
            hint="give 1 to 1f, hexadecimal, and .0 to .7 if need be",
            code="XLP230",
        )
    return Spec(host, int(match[1], 16), int(match[2] or "0"))


def place(specs: Sequence[Spec], taken: Iterable[int]) -> tuple[Bdf, ...]:
    """Every function's address in the guest; ``taken`` are the slots that others serve there.

    Raises:
        ConfigError: two functions at one address, a slot in use or without function 0, or none left.
    """
    used = set(taken)
    named: set[Bdf] = set()
    places: set[tuple[int, int]] = set()
    for spec in specs:
        if spec.slot is not None and spec.slot in used:
            raise ConfigError(
                f"slot {spec.slot:x} of the guest is in use", hint="give another vslot, or none", code="XLP230"
            )
        if spec.host in named:
            raise ConfigError(f"{spec.host} is named twice", hint="name each function once", code="XLP230")
        if spec.slot is not None and (spec.slot, spec.function) in places:
            raise ConfigError(
                f"two functions at {spec.slot:x}.{spec.function} of the guest",
                hint="give them different ones",
                code="XLP230",
            )
        named.add(spec.host)
        if spec.slot is not None:
            places.add((spec.slot, spec.function))
    asked = {slot for slot, _ in places}
    for number in asked:
        if (number, 0) not in places:
            raise ConfigError(
                f"slot {number:x} of the guest would have no function 0",
                hint="a guest looks there first",
                code="XLP230",
            )
    free = (number for number in range(SLOT_FIRST, 0, -1) if number not in used | asked)
    placed = []
    for spec in specs:
        slot = next(free, None) if spec.slot is None else spec.slot
        if slot is None:
            raise ConfigError("the guest has no free slot", hint="delegate fewer devices", code="XLP230")
        placed.append(Bdf(0, 0, slot, spec.function))
    return tuple(placed)
