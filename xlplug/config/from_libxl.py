# SPDX-License-Identifier: LGPL-2.1-only
"""libxl's JSON (``xl create -n``, ``xl list -l``, its record of a living domain) as a `DomainConfig`.

Sizes are in KiB there.  A key that libxl leaves out has its default.  The text may come from a save file or from another
host, so every type and range is checked: what gets past here is what planning may count on.
"""

from typing import Any, NoReturn

from xlplug.config.domain import (
    DEFAULT_MAXMEM,
    MAX_MIB,
    VIDEORAM,
    DomainConfig,
    IomemRange,
    PciAssignment,
    Vif,
    default_videoram,
    with_args,
)
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError
from xlplug.model.rangeset import Range

__all__ = ["from_libxl"]

_TYPES = {"hvm": "hvm", "pv": "pv", "pvh": "pvh"}
_VGA = {"cirrus": "cirrus", "std": "stdvga", "none": "none", "qxl": "qxl"}
_MODELS = {name.replace("-", "_"): name for name in VIDEORAM}
_NICS = {"vif_ioemu": "ioemu", "vif": "vif"}
_MAX_KIB = MAX_MIB << 10
_MAX_64 = (1 << 64) - 1
_NO_GFN = _MAX_64  # Source: tools/include/libxl.h, LIBXL_INVALID_GFN


def from_libxl(data: object, *, path: str = "libxl-json") -> DomainConfig:
    """The view of libxl's own JSON; ``path`` is its name for errors.

    Raises:
        ConfigError: it is not libxl's JSON for a domain.
    """
    top = _Object(data, "", path)
    # `xl list -l` wraps the configuration; its record of a domain and `xl create -n` do not.
    return with_args(_domain(top.member("config") if "config" in top else top))


class _Object:
    """A JSON object that knows its name; each method reads one key, and has the default where libxl leaves it out."""

    def __init__(self, value: object, name: str, path: str) -> None:
        self.name = name
        self.path = path
        if not isinstance(value, dict):
            self.bad("" if name else "the text", "an object")
        self.value: dict[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def bad(self, key: str, wanted: str) -> NoReturn:
        where = f"{self.name}.{key}".strip(".")
        raise ConfigError(
            f"not libxl's JSON for a domain: {where} is not {wanted}",
            path=self.path,
            hint="give the domain's xl config",
            code="XLP204",
        )

    def member(self, key: str) -> "_Object":
        return _Object(self.value.get(key, {}), f"{self.name}.{key}".strip("."), self.path)

    def members(self, key: str) -> "list[_Object]":
        return [_Object(item, f"{self.name}.{key}[{i}]".strip("."), self.path) for i, item in enumerate(self.list(key))]

    def list(self, key: str) -> "list[Any]":
        found = self.value.get(key, [])
        if not isinstance(found, list):
            self.bad(key, "a list")
        return found

    def text(self, key: str) -> str | None:
        found = self.value.get(key)
        if found is not None and not isinstance(found, str):
            self.bad(key, "text")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(item if isinstance(item, str) else self.bad(key, "a list of text") for item in self.list(key))

    def one_of(self, key: str, known: dict[str, str], default: str) -> str:
        found = self.text(key) or default
        if found not in known:
            self.bad(key, f"one of {', '.join(known)}")
        return known[found]

    def number(self, key: str, limit: int, default: int = 0) -> int:
        found = self.value.get(key, default)
        if type(found) is not int or not 0 <= found <= limit:
            self.bad(key, f"a number from 0 to {limit}")
        return found

    def truth(self, key: str) -> bool:
        """libxl prints its defbools as "True", "False" and "<default>", its bools as JSON's."""
        return self.value.get(key) in (True, "True")


def _domain(config: _Object) -> DomainConfig:
    create, build = config.member("c_info"), config.member("b_info")
    kind = create.one_of("type", _TYPES, "")
    hvm = build.member("type.hvm") if kind == "hvm" else _Object({}, "", config.path)
    version = build.one_of("device_model_version", _MODELS, "qemu_xen")
    maxmem = build.number("max_memkb", _MAX_KIB, DEFAULT_MAXMEM << 10)
    vga = hvm.member("vga").one_of("kind", _VGA, "cirrus") if kind == "hvm" else "none"
    return DomainConfig(
        name=create.text("name") or "",
        type=kind,
        memory=build.number("target_memkb", _MAX_KIB, maxmem) >> 10,
        maxmem=maxmem >> 10,
        videoram=_videoram(build, vga, version) if kind == "hvm" else 0,
        vga=vga,
        gfx_passthru=hvm.text("gfx_passthru_kind") or "default" if hvm.truth("gfx_passthru") else None,
        pci=tuple(_pci(device) for device in config.members("pcidevs")),
        iomem=tuple(_iomem(entry) for entry in build.members("iomem")),
        ioports=tuple(_ioports(entry) for entry in build.members("ioports")),
        irqs=tuple(
            irq if isinstance(irq, int) else build.bad("irqs", "a list of numbers") for irq in build.list("irqs")
        ),
        vifs=tuple(_vif(nic) for nic in config.members("nics")),
        serials=hvm.texts("serial_list") or tuple(filter(None, (hvm.text("serial"),))),
        usb=hvm.truth("usb") or bool(hvm.text("usbdevice") or hvm.list("usbdevice_list")),
        soundhw=tuple(filter(None, (hvm.text("soundhw") or "").split(","))),
        mmio_hole=hvm.number("mmio_hole_memkb", _MAX_KIB) >> 10 or None,
        device_model_version=version,
        device_model_override=build.text("device_model"),
        stubdom=build.truth("device_model_stubdomain"),
        stubdomain_kernel=build.text("stubdomain_kernel"),
        stubdomain_ramdisk=build.text("stubdomain_ramdisk"),
        stubdomain_cmdline=build.text("stubdomain_cmdline"),
        stubdomain_memory=build.number("stubdomain_memkb", _MAX_KIB) >> 10 or None,
        dm_restrict=build.truth("dm_restrict"),
        device_model_args=(*build.texts("extra"), *build.texts("extra_hvm")),
        rdm=hvm.member("rdm").text("strategy") == "host",
    )


def _videoram(build: _Object, vga: str, version: str) -> int:
    return (
        build.number("video_memkb", _MAX_KIB) >> 10 if "video_memkb" in build else default_videoram(None, vga, version)
    )


def _pci(device: _Object) -> PciAssignment:
    """One function, or a slot: then the mask has all ones, or in libxl 4.14 a bit for each function that was found.

    Of an entry by name libxl keeps that name alone, with zeros for the address.  Source: tools/libs/util/libxlu_pci.c,
    parse_bdf; tools/libs/light/libxl_pci.c, device_pci_add_stubdom_done, name2bdf.
    """
    limits = (("domain", 0xFFFF), ("bus", 0xFF), ("dev", 0x1F), ("func", 7))
    numbers = [device.number(key, limit) for key, limit in limits]
    name, mask = device.text("name"), device.number("vfunc_mask", 0xFFFFFFFF, 1)
    return PciAssignment(
        None if name and not any(numbers) else Bdf(*numbers),
        name=name,
        all_functions=bool(mask & (mask - 1)),
        permissive=device.truth("permissive"),
        seize=device.truth("seize"),
    )


def _iomem(entry: _Object) -> IomemRange:
    start, gfn = entry.number("start", _MAX_64), entry.number("gfn", _MAX_64, _NO_GFN)
    return IomemRange(start, entry.number("number", _MAX_64), start if gfn == _NO_GFN else gfn)


def _ioports(entry: _Object) -> Range:
    first = entry.number("first", 0xFFFF)
    return Range(first, first + entry.number("number", 0x10000 - first))


def _vif(nic: _Object) -> Vif:
    return Vif(_NICS.get(nic.text("nictype") or "", ""), nic.text("model") or Vif().model)
