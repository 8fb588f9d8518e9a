# SPDX-License-Identifier: LGPL-2.1-only
"""An xl configuration's settings as a `DomainConfig`, with libxl's defaults."""

from xlplug.config.c_number import is_binary, leading
from xlplug.config.delegated import SLOT_FIRST, SLOT_ISA_BRIDGE, SLOTS_OF_QEMU, Spec, parse_spec, place
from xlplug.config.domain import (
    DEFAULT_MAXMEM,
    DELEGATE_KEY,
    HIDE_ROM_LINE_KEY,
    MAP_LEGACY_KEY,
    MAX_MIB,
    PRELOAD_KEY,
    ROM_KEY,
    VIDEORAM,
    DomainConfig,
    IomemRange,
    PciAssignment,
    Vif,
    default_videoram,
    with_args,
)
from xlplug.config.language import Settings
from xlplug.config.pci_spec import PciSpec, parse_pci_spec
from xlplug.config.settings import OURS
from xlplug.model.errors import ConfigError
from xlplug.model.rangeset import Range

_MMIO_HOLE = range(256, 3841)
_OUR_KEYS = (DELEGATE_KEY, HIDE_ROM_LINE_KEY, MAP_LEGACY_KEY, PRELOAD_KEY, ROM_KEY)


def from_settings(settings: Settings) -> DomainConfig:
    """The view of a parsed xl configuration.

    Raises:
        ConfigError: a value that makes xl exit.
    """
    return with_args(_Reader(settings).view())


class _Reader:
    """Reads typed values out of `Settings`; errors name the file and the key's line."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def bad(self, name: str, text: str, hint: str) -> ConfigError:
        path, line = self.settings.assigned(name)
        return ConfigError(f"{name}: '{text}' is not valid", path=path, line=line, text=text, hint=hint, code="XLP203")

    def string(self, name: str) -> str | None:
        return self.settings.get_string(name)

    def number(self, name: str, *, dont_warn: bool = False) -> int | None:
        """A number, or None.  One in binary is a number to xl where it was built with glibc 2.38 or later, and to no other."""
        if name in self.settings and name not in self.settings.appended:
            text = self.settings[name]
            if isinstance(text, str) and is_binary(text):
                raise self.bad(name, text, "write it in decimal or hexadecimal: not every xl takes it for a number")
        return self.settings.get_long(name, dont_warn=dont_warn)

    def flag(self, name: str) -> bool:
        return bool(self.number(name))

    def strings(self, name: str) -> list[str]:
        """A list's strings, up to the first nested list, where xl's own loop ends too."""
        found: list[str] = []
        for item in self.settings.get_list(name) or []:
            if not isinstance(item, str):
                break
            found.append(item)
        return found

    def all_strings(self, name: str) -> list[str]:
        """A list's strings, where xl exits at one that is nested."""
        found = self.strings(name)
        if len(found) < len(self.settings.get_list(name) or []):
            raise self.bad(name, "a list in the list", "write one list of strings")
        return found

    def arguments(self) -> tuple[str, ...]:
        """What is added to the device model's command line.  xl exits where one of these is not a list."""
        names = ("device_model_args", "device_model_args_pv", "device_model_args_hvm")
        for name in names:
            if name in self.settings and isinstance(text := self.settings[name], str):
                raise self.bad(name, text, f"write a list: {name} = [ ... ]")
        return (*self.strings(names[0]), *self.strings(names[2]))

    def one_or_list(self, name: str) -> tuple[str, ...]:
        """A setting that xl takes as one string or as a list of them."""
        if name not in self.settings:
            return ()
        value = self.settings[name]
        return (value,) if isinstance(value, str) else tuple(self.strings(name))

    def view(self) -> DomainConfig:
        kind = self.domain_type()
        memory, maxmem = self.memory()
        version = self.device_model_version()
        vga = self.vga() if kind == "hvm" else "none"
        for name in self.settings:
            if name.startswith(OURS) and name not in _OUR_KEYS:
                self.settings.warn(name, "xlplug has no such setting", "see xlplug.cfg(5)", code="XLP215")
        return DomainConfig(
            name=self.string("name") or "",
            type=kind,
            memory=memory,
            maxmem=maxmem,
            videoram=default_videoram(self.number("videoram"), vga, version) if kind == "hvm" else 0,
            vga=vga,
            gfx_passthru=self.gfx_passthru() if kind == "hvm" else None,
            pci=self.pci(),
            iomem=tuple(self.iomem(text) for text in self.all_strings("iomem")),
            ioports=tuple(self.ioport(text) for text in self.all_strings("ioports")),
            irqs=tuple(self.irq(text) for text in self.all_strings("irqs")),
            vifs=tuple(self.vif(text) for text in self.strings("vif")),
            serials=self.one_or_list("serial"),
            usb=self.flag("usb") or bool(self.one_or_list("usbdevice")),
            soundhw=tuple(filter(None, (self.string("soundhw") or "").split(","))),
            mmio_hole=self.mmio_hole() if kind == "hvm" else None,
            device_model_version=version,
            device_model_override=self.string("device_model_override"),
            stubdom=self.flag("device_model_stubdomain_override"),
            stubdomain_kernel=self.string("stubdomain_kernel"),
            stubdomain_ramdisk=self.string("stubdomain_ramdisk"),
            stubdomain_cmdline=self.string("stubdomain_cmdline"),
            stubdomain_memory=self.number("stubdomain_memory"),
            dm_restrict=self.flag("dm_restrict"),
            device_model_args=self.arguments(),
            rdm="strategy=host" in (self.string("rdm") or ""),
            map_legacy=self.flag(MAP_LEGACY_KEY),
            preload=self.flag(PRELOAD_KEY),
            rom=self.rom(),
            delegate=self.delegate(kind),
            hide_rom_line=self.number(HIDE_ROM_LINE_KEY) != 0,
            warnings=tuple(self.settings.warnings),
        )

    def domain_type(self) -> str:
        kind = None
        text = self.string("type")
        if text is not None:
            # xl compares only as many characters as the value has: "h" and "" are hvm, "p" is pv.
            kind = next((k for k in ("hvm", "pv", "pvh") if k.startswith(text)), None)
            if kind is None:
                raise self.bad("type", text, 'write "hvm", "pv" or "pvh"')
        text = self.string("builder")
        if text is not None:
            builder = next((k for b, k in (("hvm", "hvm"), ("generic", "pv")) if b.startswith(text)), None)
            if builder is None or (kind is not None and kind != builder):
                raise self.bad("builder", text, 'remove it and write type="hvm", "pv" or "pvh"')
            kind = builder
        return kind or "pv"

    def memory(self) -> tuple[int, int]:
        memory, maxmem = self.number("memory"), self.number("maxmem")
        for name, value in (("memory", memory), ("maxmem", maxmem)):
            if value is not None and not 0 < value <= MAX_MIB:
                raise self.bad(name, str(value), f"give it in MiB, from 1 to {MAX_MIB}")
        if maxmem is None:
            maxmem = memory if memory is not None else DEFAULT_MAXMEM
        return (memory if memory is not None else maxmem), maxmem

    def mmio_hole(self) -> int | None:
        """In MiB, within what xl takes: tools/xl/xl_parse.c, HVM_BELOW_4G_MMIO_LENGTH and HVM_BELOW_4G_MMIO_START."""
        found = self.number("mmio_hole")
        if found is not None and found not in _MMIO_HOLE:
            raise self.bad("mmio_hole", str(found), "give it in MiB, from 256 to 3840")
        return found

    def device_model_version(self) -> str:
        text = self.string("device_model_version")
        if text is None:
            # libxl_create.c, libxl__domain_build_info_setdefault, up to 4.20; later a stubdomain has no default.
            return "qemu-xen-traditional" if self.flag("device_model_stubdomain_override") else "qemu-xen"
        if text not in VIDEORAM:
            raise self.bad("device_model_version", text, 'write "qemu-xen"')
        return text

    def vga(self) -> str:
        text = self.string("vga")
        if text is not None:
            if text not in VIDEORAM["qemu-xen"]:
                raise self.bad("vga", text, "write none, stdvga, cirrus or qxl")
            return text
        return "stdvga" if self.flag("stdvga") else "cirrus"

    def gfx_passthru(self) -> str | None:
        number = self.number("gfx_passthru", dont_warn=True)
        if number is not None:
            return "default" if number else None
        text = self.string("gfx_passthru")
        if text is None:
            return None
        if text.lower() not in ("default", "igd"):
            raise self.bad("gfx_passthru", text, 'write 0, 1, "default" or "igd"')
        return text.lower()

    def rom(self) -> str | bool:
        number = self.number(ROM_KEY, dont_warn=True)
        return self.string(ROM_KEY) or True if number is None else number != 0

    def delegate(self, kind: str) -> tuple[Spec, ...]:
        def wrong(message: str, hint: str, text: str = "") -> ConfigError:
            path, line = self.settings.assigned(DELEGATE_KEY)
            return ConfigError(f"{DELEGATE_KEY}: {message}", path=path, line=line, text=text, hint=hint, code="XLP230")

        found = []
        passed = self.pci()
        for text in self.strings(DELEGATE_KEY):
            if kind != "hvm":
                raise wrong("it is for HVM guests", "remove it, and run 'xlplug dm' once the guest is there", text)
            try:
                found.append(parse_spec(text))
            except ConfigError as error:
                raise wrong(error.message, error.hint, text) from error
            slot = found[-1].slot
            if slot is not None and slot < SLOTS_OF_QEMU:
                raise wrong(
                    f"slot {slot:x} of the guest is left to QEMU, which starts later and takes the first that are free",
                    f"give a vslot from {SLOTS_OF_QEMU:x} to {SLOT_FIRST:x}, or none", text,
                )  # fmt: skip
            if slot == SLOT_ISA_BRIDGE and self.gfx_passthru() is not None:
                raise wrong(
                    "slot 1f of the guest has QEMU's ISA bridge for an Intel display", "give another vslot", text
                )
            if any(entry.names(found[-1].host) for entry in passed):
                raise wrong(f"{found[-1].host} is also in pci", "remove it from one of them: only one can map it", text)
        try:
            place(found, ())
        except ConfigError as error:
            raise wrong(error.message, error.hint) from error
        return tuple(found)

    def pci(self) -> tuple[PciAssignment, ...]:
        permissive, seize = self.flag("pci_permissive"), self.flag("pci_seize")
        found = []
        for text in self.strings("pci"):
            try:
                spec = parse_pci_spec(text)
            except ConfigError as error:
                path, line = self.settings.assigned("pci")
                raise ConfigError(
                    f"pci: {error.message}", path=path, line=line, text=text, hint=error.hint, code="XLP220"
                ) from error
            for flag in spec.misread:
                what = f"'{text}': xl reads {flag} as a number, and this as 0"
                self.settings.warn("pci", what, f"write {flag}=1, or {flag}=0", code="XLP209")
            found.append(_assignment(spec, permissive=permissive, seize=seize))
        return tuple(found)

    def iomem(self, text: str) -> IomemRange:
        pages, at, gfn = text.partition("@")
        first, comma, count = pages.partition(",")
        numbers = [_hex(part) for part in (first, count, gfn if at else first)]
        mfn, nr, guest = numbers
        if not comma or mfn is None or nr is None or guest is None or nr == 0:
            raise self.bad("iomem", text, "write START,NUM[@GFN], page numbers in hexadecimal")
        return IomemRange(mfn, nr, guest)

    def ioport(self, text: str) -> Range:
        # As strtoul: to xl "3f8 -3ff" is the port 3f8 alone, and a warning.
        first, rest = leading(text, 16)
        last = first
        if rest.startswith("-"):
            last, rest = leading(rest[1:], 16)
        if first is None or last is None or rest or not 0 <= first <= last <= 0xFFFF:
            raise self.bad("ioports", text, "write FIRST-LAST, both inclusive, hexadecimal, at most ffff")
        return Range(first, last + 1)

    def irq(self, text: str) -> int:
        body = text.strip()
        digits = body.lstrip("0") or "0"
        if not (body.isascii() and body.isdecimal()) or len(digits) > 10 or int(digits) >= 1 << 32:
            raise self.bad("irqs", text, "write a decimal interrupt number")
        return int(digits)

    def vif(self, text: str) -> Vif:
        pairs = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in text.split(","))}
        return Vif(pairs.get("type", ""), pairs.get("model", Vif().model))


def _assignment(spec: PciSpec, *, permissive: bool, seize: bool) -> PciAssignment:
    return PciAssignment(
        bdf=spec.bdf,
        name=spec.name,
        all_functions=spec.all_functions,
        permissive=permissive if spec.permissive is None else spec.permissive,
        seize=seize if spec.seize is None else spec.seize,
    )


def _hex(text: str) -> int | None:
    """A hexadecimal number as strtoul base 16 reads it, 0x allowed; None when anything is left over, or beyond 64 bits."""
    body = text.strip().lower().removeprefix("0x").lstrip("0") or text.strip()[-1:]
    return int(body, 16) if body and len(body) <= 16 and set(body) <= set("0123456789abcdef") else None
