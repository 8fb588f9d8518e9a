# SPDX-License-Identifier: LGPL-2.1-only
"""libxl's JSON (``xl create -n``, ``xl list -l``, its record of a living domain) as a `DomainConfig`."""

from collections.abc import Mapping
from typing import Any

from xlplug.config.domain import _DEFAULT_MAXMEM, DomainConfig, IomemRange, PciAssignment, Vif, _videoram, _with_args
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError
from xlplug.model.rangeset import Range

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
