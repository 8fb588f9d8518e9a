# SPDX-License-Identifier: LGPL-2.1-only
"""The typed meaning of a domain's configuration, from xl's text or from libxl's JSON, with libxl's defaults.

Only what planning reads is here.  Source of keys and defaults: tools/xl/xl_parse.c, parse_config_data;
tools/libs/light/libxl_create.c, libxl__domain_build_info_setdefault.  `MAP_LEGACY_KEY` and `PRELOAD_KEY` are ours; xl ignores
keys that it does not know.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from xlplug.config.language import Settings
from xlplug.config.pci_spec import PciSpec, parse_pci_spec
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError
from xlplug.model.rangeset import Range

__all__ = [
    "MAP_LEGACY_KEY",
    "PRELOAD_KEY",
    "DomainConfig",
    "IomemRange",
    "PciAssignment",
    "Vif",
    "from_libxl",
    "from_settings",
    "passes_igd",
]

MAP_LEGACY_KEY = "xlplug_map_legacy"  #: 1: map the VGA set ourselves, for device models that do not or may not
PRELOAD_KEY = "xlplug_preload"  #: 1: the device model runs with our preload library, so its RAM is ours to populate

#: Video RAM in MiB: (default, minimum) by emulated card.  Source: libxl_create.c, LIBXL_VGA_INTERFACE_TYPE cases.
_VIDEORAM = {
    "qemu-xen": {"none": (0, 0), "cirrus": (8, 8), "stdvga": (16, 16), "qxl": (128, 128)},
    "qemu-xen-traditional": {"none": (0, 0), "cirrus": (4, 4), "stdvga": (8, 8), "qxl": (0, 0)},
}
_DEFAULT_MAXMEM = 32  # MiB, when neither memory nor maxmem is given: libxl_create.c


class PciAssignment(NamedTuple):
    """One entry of ``pci``, global flags applied.  ``bdf`` is None for an entry by ``name``."""

    bdf: Bdf | None
    name: str | None = None
    all_functions: bool = False
    permissive: bool = False
    seize: bool = False

    def __str__(self) -> str:
        if self.bdf is None:
            return f"name={self.name}"
        return str(self.bdf)[:-1] + "*" if self.all_functions else str(self.bdf)


class IomemRange(NamedTuple):
    """One entry of ``iomem``: ``nr`` pages from ``mfn``, which libxl maps at ``gfn``."""

    mfn: int
    nr: int
    gfn: int


class Vif(NamedTuple):
    """One entry of ``vif``: ``type`` (ioemu or vif; "" is the default) and the emulated ``model``."""

    type: str = ""
    model: str = "rtl8139"


class DomainConfig(NamedTuple):
    """What a configuration asks for.  Sizes in MiB; ``gfx_passthru`` is None, "default" or "igd".

    ``igd_by_args``: it is QEMU alone that is told of that, as with libvirt, and libxl grants nothing for it.
    """

    name: str = ""
    type: str = "pv"
    memory: int = _DEFAULT_MAXMEM
    maxmem: int = _DEFAULT_MAXMEM
    videoram: int = 0
    vga: str = "cirrus"
    gfx_passthru: str | None = None
    igd_by_args: bool = False
    pci: tuple[PciAssignment, ...] = ()
    iomem: tuple[IomemRange, ...] = ()
    ioports: tuple[Range, ...] = ()
    irqs: tuple[int, ...] = ()
    vifs: tuple[Vif, ...] = ()
    mmio_hole: int | None = None
    device_model_version: str = "qemu-xen"
    device_model_override: str | None = None
    stubdom: bool = False
    stubdomain_kernel: str | None = None
    stubdomain_ramdisk: str | None = None
    stubdomain_cmdline: str | None = None
    stubdomain_memory: int | None = None
    dm_restrict: bool = False
    device_model_args: tuple[str, ...] = ()
    rdm: bool = False
    map_legacy: bool = False
    preload: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def wants_legacy(self) -> bool:
        """Whether a plan for it can have any step: everything else is libxl's and the device model's alone."""
        wanted = self.gfx_passthru is not None or self.map_legacy or self.preload or bool(self.ioports)
        return self.type == "hvm" and wanted


def passes_igd(arguments: Sequence[str]) -> bool:
    """Whether QEMU is told to pass a display through: the machine option that ``gfx_passthru`` becomes."""
    return any(option == "-machine" and "igd-passthru=on" in value.split(",") for option, value in pairwise(arguments))


def _with_args(config: DomainConfig) -> DomainConfig:
    """The configuration, where its arguments for QEMU do what ``gfx_passthru`` would."""
    if config.type == "hvm" and config.gfx_passthru is None and passes_igd(config.device_model_args):
        return config._replace(gfx_passthru="igd", igd_by_args=True)
    return config


def from_settings(settings: Settings, *, path: str = "") -> DomainConfig:
    """The view of a parsed xl configuration.

    Raises:
        ConfigError: a value that makes xl exit.
    """
    return _with_args(_Reader(settings, path).view())


class _Reader:
    """Reads typed values out of `Settings`; errors name the file and the key's line."""

    def __init__(self, settings: Settings, path: str) -> None:
        self.settings = settings
        self.path = path

    def bad(self, name: str, text: str, hint: str) -> ConfigError:
        line = self.settings.line(name)
        return ConfigError(f"{name}: '{text}' is not valid", path=self.path, line=line, text=text, hint=hint)

    def string(self, name: str) -> str | None:
        return self.settings.get_string(name)

    def flag(self, name: str) -> bool:
        return bool(self.settings.get_long(name))

    def strings(self, name: str) -> list[str]:
        """A list's strings, up to the first nested list, where xl's own loop ends too."""
        found: list[str] = []
        for item in self.settings.get_list(name) or []:
            if not isinstance(item, str):
                break
            found.append(item)
        return found

    def view(self) -> DomainConfig:
        kind = self.domain_type()
        memory, maxmem = self.memory()
        version = self.device_model_version()
        vga = self.vga() if kind == "hvm" else "none"
        return DomainConfig(
            name=self.string("name") or "",
            type=kind,
            memory=memory,
            maxmem=maxmem,
            videoram=_videoram(self.settings.get_long("videoram"), vga, version) if kind == "hvm" else 0,
            vga=vga,
            gfx_passthru=self.gfx_passthru() if kind == "hvm" else None,
            pci=self.pci(),
            iomem=tuple(self.iomem(text) for text in self.strings("iomem")),
            ioports=tuple(self.ioport(text) for text in self.strings("ioports")),
            irqs=tuple(self.irq(text) for text in self.strings("irqs")),
            vifs=tuple(self.vif(text) for text in self.strings("vif")),
            mmio_hole=self.settings.get_long("mmio_hole"),
            device_model_version=version,
            device_model_override=self.string("device_model_override"),
            stubdom=self.flag("device_model_stubdomain_override"),
            stubdomain_kernel=self.string("stubdomain_kernel"),
            stubdomain_ramdisk=self.string("stubdomain_ramdisk"),
            stubdomain_cmdline=self.string("stubdomain_cmdline"),
            stubdomain_memory=self.settings.get_long("stubdomain_memory"),
            dm_restrict=self.flag("dm_restrict"),
            device_model_args=(*self.strings("device_model_args"), *self.strings("device_model_args_hvm")),
            rdm="strategy=host" in (self.string("rdm") or ""),
            map_legacy=self.flag(MAP_LEGACY_KEY),
            preload=self.flag(PRELOAD_KEY),
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
        memory, maxmem = self.settings.get_long("memory"), self.settings.get_long("maxmem")
        for name, value in (("memory", memory), ("maxmem", maxmem)):
            if value is not None and value <= 0:
                raise self.bad(name, str(value), "give it in MiB, more than 0")
        if maxmem is None:
            maxmem = memory if memory is not None else _DEFAULT_MAXMEM
        return (memory if memory is not None else maxmem), maxmem

    def device_model_version(self) -> str:
        text = self.string("device_model_version")
        if text is None:
            # libxl_create.c, libxl__domain_build_info_setdefault, up to 4.20; later a stubdomain has no default.
            return "qemu-xen-traditional" if self.flag("device_model_stubdomain_override") else "qemu-xen"
        if text not in _VIDEORAM:
            raise self.bad("device_model_version", text, 'write "qemu-xen"')
        return text

    def vga(self) -> str:
        text = self.string("vga")
        if text is not None:
            if text not in _VIDEORAM["qemu-xen"]:
                raise self.bad("vga", text, "write none, stdvga, cirrus or qxl")
            return text
        return "stdvga" if self.flag("stdvga") else "cirrus"

    def gfx_passthru(self) -> str | None:
        number = self.settings.get_long("gfx_passthru", dont_warn=True)
        if number is not None:
            return "default" if number else None
        text = self.string("gfx_passthru")
        if text is None:
            return None
        if text.lower() not in ("default", "igd"):
            raise self.bad("gfx_passthru", text, 'write 0, 1, "default" or "igd"')
        return text.lower()

    def pci(self) -> tuple[PciAssignment, ...]:
        permissive, seize = self.flag("pci_permissive"), self.flag("pci_seize")
        found = []
        for text in self.strings("pci"):
            try:
                spec = parse_pci_spec(text)
            except ConfigError as error:
                raise self.bad("pci", text, error.hint or error.message) from error
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
        first_text, dash, last_text = text.partition("-")
        first = _hex(first_text)
        last = _hex(last_text) if dash else first
        if first is None or last is None or first > last or last > 0xFFFF:
            raise self.bad("ioports", text, "write FIRST-LAST, both inclusive, hexadecimal, at most ffff")
        return Range(first, last + 1)

    def irq(self, text: str) -> int:
        if not text.strip().isdecimal():
            raise self.bad("irqs", text, "write a decimal interrupt number")
        return int(text)

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


def _videoram(given: int | None, vga: str, version: str) -> int:
    default, minimum = _VIDEORAM[version][vga]
    return default if given is None else max(given, minimum)


def _hex(text: str) -> int | None:
    """A hexadecimal number as strtoul base 16 reads it, 0x allowed; None when anything is left over."""
    body = text.strip().lower()
    body = body.removeprefix("0x")
    return int(body, 16) if body and set(body) <= set("0123456789abcdef") else None


# libxl's JSON ---------------------------------------------------------------------------------------------------------

_LIBXL_VGA = {"cirrus": "cirrus", "std": "stdvga", "none": "none", "qxl": "qxl"}


def from_libxl(data: Mapping[str, Any], *, path: str = "libxl-json") -> DomainConfig:
    """The view of libxl's own JSON (``xl create -n``, ``xl list -l``, ``userdata-d.<domid>.<uuid>.libxl-json``).

    Keys that libxl leaves out have its defaults.  Sizes are in KiB there.

    Raises:
        ConfigError: it is not libxl's JSON.
    """
    try:
        return _with_args(_from_libxl(data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"not libxl's JSON for a domain ({type(error).__name__}: {error})",
            path=path,
            hint="give the xl config with --config",
        ) from error


def _from_libxl(data: Mapping[str, Any]) -> DomainConfig:
    # `xl list -l` wraps the configuration; userdata and `xl create -n` do not.
    config = data.get("config", data)
    create, build = config["c_info"], config["b_info"]
    kind = {"hvm": "hvm", "pv": "pv", "pvh": "pvh"}[create["type"]]
    hvm = build.get("type.hvm", {}) if kind == "hvm" else {}
    version = build.get("device_model_version", "qemu_xen").replace("_", "-")
    maxmem = build.get("max_memkb", _DEFAULT_MAXMEM << 10)
    vga = _LIBXL_VGA[hvm.get("vga", {}).get("kind", "cirrus")] if kind == "hvm" else "none"
    video = build.get("video_memkb")
    hole = hvm.get("mmio_hole_memkb")
    stub_memory = build.get("stubdomain_memkb")
    return DomainConfig(
        name=create.get("name", ""),
        type=kind,
        memory=build.get("target_memkb", maxmem) >> 10,
        maxmem=maxmem >> 10,
        videoram=(video >> 10 if video is not None else _videoram(None, vga, version)) if kind == "hvm" else 0,
        vga=vga,
        gfx_passthru=hvm.get("gfx_passthru_kind", "default") if _truth(hvm.get("gfx_passthru")) else None,
        pci=tuple(
            PciAssignment(
                Bdf(dev.get("domain", 0), dev.get("bus", 0), dev.get("dev", 0), dev.get("func", 0)),
                name=dev.get("name"),
                permissive=_truth(dev.get("permissive")),
                seize=_truth(dev.get("seize")),
            )
            for dev in config.get("pcidevs", [])
        ),
        iomem=tuple(
            IomemRange(m["start"], m["number"], m["start"] if m.get("gfn", _NO_GFN) == _NO_GFN else m["gfn"])
            for m in build.get("iomem", [])
        ),
        ioports=tuple(Range(p["first"], p["first"] + p["number"]) for p in build.get("ioports", [])),
        irqs=tuple(build.get("irqs", [])),
        vifs=tuple(
            Vif({"vif_ioemu": "ioemu", "vif": "vif"}.get(nic.get("nictype", ""), ""), nic.get("model") or Vif().model)
            for nic in config.get("nics", [])
        ),
        mmio_hole=hole >> 10 if hole else None,
        device_model_version=version,
        device_model_override=build.get("device_model"),
        stubdom=_truth(build.get("device_model_stubdomain")),
        stubdomain_kernel=build.get("stubdomain_kernel"),
        stubdomain_ramdisk=build.get("stubdomain_ramdisk"),
        stubdomain_cmdline=build.get("stubdomain_cmdline"),
        stubdomain_memory=stub_memory >> 10 if stub_memory else None,
        dm_restrict=_truth(build.get("dm_restrict")),
        device_model_args=(*build.get("extra", []), *build.get("extra_hvm", [])),
        rdm=hvm.get("rdm", {}).get("strategy") == "host",
    )


_NO_GFN = (1 << 64) - 1  # Source: tools/include/libxl.h, LIBXL_INVALID_GFN


def _truth(value: object) -> bool:
    """libxl prints its defbools as "True", "False" and "<default>", its bools as JSON's."""
    return value is True or value == "True"
