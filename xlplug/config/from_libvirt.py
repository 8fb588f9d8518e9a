# SPDX-License-Identifier: LGPL-2.1-only
"""A domain's configuration from libvirt's XML, for domains whose ``<emulator>`` is our wrapper.

When libvirt's libxl driver starts a domain, nothing about it is on disk but its definition in /etc/libvirt/libxl; the
status in /run/libvirt/libxl is written after libxl is done (libvirt, src/libxl/libxl_domain.c, libxlDomainStartPerform), and
then holds the domains that were never defined.  libvirt has no setting for ``gfx_passthru``: only the device model's
command line shows it (see `xlplug.config.domain.passes_igd`).
"""

from xlplug.config.domain import DomainConfig, PciAssignment
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["from_xml"]

#: KiB by unit.  Source: libvirt's "Domain XML format", memory: KiB is the default.
_KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "KB": 1000 / 1024, "k": 1, "KiB": 1, "MB": 1e6 / 1024, "M": 1 << 10}
_KIB |= {"MiB": 1 << 10, "GB": 1e9 / 1024, "G": 1 << 20, "GiB": 1 << 20}
_KIB |= {"TB": 1e12 / 1024, "T": 1 << 30, "TiB": 1 << 30}
#: The emulated card by the model of the first <video>; libvirt refuses any other, and with no <video> there is none.
#: Source: libvirt, src/libxl/libxl_conf.c, libxlMakeVideo; the latter from 6.4 (2020) on.
_VGA = {"vga": "stdvga", "xen": "stdvga", "cirrus": "cirrus", "qxl": "qxl"}
#: The attributes of a PCI <address>, and what is read where one is not given.
_ADDRESS = (("domain", "0"), ("bus", ""), ("slot", ""), ("function", "0"))


def from_xml(data: bytes, path: str, *, gfx_passthru: bool) -> DomainConfig:
    """What planning reads of a definition or a status.

    Raises:
        ConfigError: not a libvirt domain, or a device without an address.
    """
    from xml.etree import ElementTree as ET

    try:
        root = ET.fromstring(data)  # noqa: S314 - root's own file, written by libvirtd
    except (ET.ParseError, LookupError, ValueError) as error:  # the latter two: of an encoding that is not known
        raise ConfigError(
            f"not XML ({error})", path=path, hint="define the domain again with 'virsh define'", code="XLP205"
        ) from error
    domain = root if root.tag == "domain" else root.find("domain")
    if domain is None:
        raise ConfigError(
            "no <domain> in it", path=path, hint="define the domain again with 'virsh define'", code="XLP205"
        )
    kind = domain.findtext("os/type", "").strip()
    memory = _mib(domain, "memory", path)
    card = domain.find("devices/video/model")
    pci = tuple(
        PciAssignment(_address(device, path))  # managed ones are bound to pciback before libxl is called
        for device in domain.iterfind("devices/hostdev")
        if device.get("type") == "pci" and device.get("mode", "subsystem") == "subsystem"
    )
    return DomainConfig(
        name=domain.findtext("name", ""),
        type={"hvm": "hvm", "xenpvh": "pvh"}.get(kind, "pv"),
        maxmem=memory,
        memory=_mib(domain, "currentMemory", path) or memory,
        vga="none" if card is None else _VGA.get(card.get("type", ""), "none"),
        gfx_passthru="igd" if gfx_passthru else None,
        igd_by_args=gfx_passthru,
        pci=pci,
        device_model_override=domain.findtext("devices/emulator"),
    )


def _address(device: "Element", path: str) -> Bdf:
    where = device.find("source/address")
    fields = {} if where is None else where.attrib
    try:
        segment, bus, slot, function = (int(fields.get(key, default), 0) for key, default in _ADDRESS)
        return Bdf.parse(f"{segment:04x}:{bus:02x}:{slot:02x}.{function:x}")
    except (ValueError, ConfigError):
        raise ConfigError("a <hostdev> without a PCI address", path=path, hint="correct it", code="XLP205") from None


def _mib(domain: "Element", tag: str, path: str) -> int:
    element = domain.find(tag)
    if element is None:
        return 0
    try:
        return int(int(element.text or "") * _KIB[element.get("unit", "KiB")]) >> 10
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(f"<{tag}> is not understood", path=path, hint="give it in KiB", code="XLP205") from None
