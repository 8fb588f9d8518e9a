# SPDX-License-Identifier: LGPL-2.1-only
"""Every path in xenstore that xlplug reads or writes, and a number as its nodes hold one.  Text only.

Domids are ordinary numbers in these paths.  A guest may write only below its own ``data``, ``drivers``, ``control`` and
device folders (tools/libs/light/libxl_create.c, libxl__domain_make), so every node named here is written by dom0.
"""

__all__ = [
    "DOM0_DOMID",
    "DOMAINS",
    "LIBXL",
    "PCI_BACKEND",
    "device_model_domid",
    "devices",
    "domain",
    "domid_in",
    "journal",
    "libxl",
    "name",
    "pci_devices",
    "paused",
    "preload",
    "target",
    "vga",
    "vm",
]

DOMAINS = "/local/domain"  #: a folder for each domain
LIBXL = "/libxl"  #: libxl's own folder for each domain; removed with the domain
#: pciback's nodes: ``<domid>/0/{num_devs,dev-N}``.  Source: tools/libs/light/libxl_pci.c, libxl__create_pci_backend.
PCI_BACKEND = f"{DOMAINS}/0/backend/pci"
#: Written by xen-init-dom0 once xenstored has started.  Source: tools/helpers/init-dom0.c, xen-init-dom0.c.
DOM0_DOMID = f"{DOMAINS}/0/domid"


def domain(domid: int | str) -> str:
    """A domain's own folder."""
    return f"{DOMAINS}/{domid}"


def name(domid: int) -> str:
    """A domain's name."""
    return f"{DOMAINS}/{domid}/name"


def vm(domid: int) -> str:
    """The path ``/vm/<uuid>`` of what stays the same when a domain reboots."""
    return f"{DOMAINS}/{domid}/vm"


def target(domid: int | str) -> str:
    """Of a stubdomain: the domid of the guest that it serves.  Source: libxl_dm.c, libxl__spawn_stub_dm."""
    return f"{DOMAINS}/{domid}/target"


def device_model_domid(domid: int) -> str:
    """Of a guest: the domid of its stubdomain.  Source: as `target`, and written just before it."""
    return f"{DOMAINS}/{domid}/image/device-model-domid"


def pci_devices(domid: int | str) -> str:
    """pciback's folder for one domain's functions."""
    return f"{PCI_BACKEND}/{domid}/0"


def libxl(domid: int) -> str:
    """libxl's folder of a domain."""
    return f"{LIBXL}/{domid}"


def journal(domid: int | str) -> str:
    """What xlplug has granted to a domain (execute/journal.py)."""
    return f"{LIBXL}/{domid}/xlplug"


def devices(domid: int) -> str:
    """Which BARs a domain has, and who must map them (delegate/record.py).  Not below `journal`, which is replaced as a whole."""
    return f"{LIBXL}/{domid}/xlplug-devices"


def vga(domid: int | str = "") -> str:
    """That a domain's journal has the legacy VGA ranges: who else has them is known without reading every journal."""
    return f"/tool/xlplug-vga/{domid}".rstrip("/")


def paused(domid: int) -> str:
    """That ``xlplug watch`` has paused a domain (watch/guard.py).  Not below `journal`, which is replaced as a whole."""
    return f"{LIBXL}/{domid}/xlplug-paused"


def preload(device_model: int) -> str:
    """What was done for the guests of a device model: a folder for each guest (execute/preload_nodes.py, hooks/preload)."""
    return f"{DOMAINS}/{device_model}/xlplug"


def domid_in(text: str | None) -> int | None:
    """The domid that a node holds: at most five digits, as Xen's are; None for anything else, and for no node."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= 5 else None
