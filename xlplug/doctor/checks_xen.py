# SPDX-License-Identifier: LGPL-2.1-only
"""What must be true of this process, of Xen, and of xenstored.  Pure."""

from collections.abc import Iterator

from xlplug.doctor.facts import Facts
from xlplug.doctor.finding import FAILURE, INFO, OK, WARNING, Finding, missing, there
from xlplug.doctor.reading import Missing, Skipped

#: The oldest Xen that the lab has tried, and the oldest Python (pyproject.toml).
_OLDEST_XEN = (4, 14)
_OLDEST_PYTHON = (3, 11)
#: Bytes that the ``q`` debug key says of a paused guest, at least.  Measured on 4.17 and 4.20: 1548 with one vCPU, 1800 with two.
_DUMP_BYTES = 1548


def root(facts: Facts) -> Iterator[Finding]:
    """Xen's devices, config space beyond 64 bytes and /dev/mem are root's."""
    if facts.euid == 0:
        yield Finding(OK, "root", "running as root")
    else:
        yield Finding(
            FAILURE, "root", f"not root (euid {facts.euid}): Xen can be changed by root only", "run it with sudo"
        )


def python(facts: Facts) -> Iterator[Finding]:
    """The interpreter, and what it must find."""
    text = "Python " + ".".join(str(part) for part in facts.python)
    if facts.python >= _OLDEST_PYTHON:
        yield Finding(OK, "python", text)
    else:
        oldest = "{}.{}".format(*_OLDEST_PYTHON)
        yield Finding(FAILURE, "python", f"{text} is older than {oldest}", f"run xlplug with Python {oldest} or later")
    for module in facts.modules:
        yield there(module.name, module.found)


def xen(facts: Facts) -> Iterator[Finding]:
    """Whether this is Xen, a version that is known, and its control domain."""
    version = facts.version
    if isinstance(version, Missing):
        yield missing("xen", version)
    elif version < _OLDEST_XEN:
        oldest = "{}.{}".format(*_OLDEST_XEN)
        yield Finding(
            WARNING, "xen", f"Xen {facts.version_text} is older than {oldest}, the oldest that xlplug was tried with",
            "upgrade Xen",
        )  # fmt: skip
    else:
        yield Finding(OK, "xen", f"Xen {facts.version_text}")
    if isinstance(facts.control, Missing):
        yield missing("dom0", facts.control)
    elif facts.control:
        yield Finding(OK, "dom0", "this is the control domain")
    else:
        yield Finding(FAILURE, "dom0", "this is a guest domain", "run xlplug in dom0")


def devices_of_xen(facts: Facts) -> Iterator[Finding]:
    """The special files through which Xen and xenstored are reached."""
    for node in facts.nodes:
        yield there(node.name, node.found)


def libraries(facts: Facts) -> Iterator[Finding]:
    """libxenctrl of the running version, accepted by Xen; and those with a stable interface."""
    yield there("libxenctrl", facts.library)
    if isinstance(facts.domctl, Missing):
        yield missing("domain control", facts.domctl)
    else:
        yield Finding(OK, "domain control", "Xen accepts libxenctrl's domain control calls")
    for library in facts.libraries:
        yield there(library.name, library.found)


def store(facts: Facts) -> Iterator[Finding]:
    """xenstored, and that it knows of dom0, which is xen-init-dom0's work."""
    if isinstance(facts.store, Missing):
        yield missing("xenstored", facts.store)
    elif facts.store != "0":
        yield Finding(
            FAILURE,
            "xenstored",
            "it answers, but does not know dom0",
            "run xen-init-dom0: systemctl start xen-init-dom0 (Debian: xen)",
        )
    else:
        yield Finding(OK, "xenstored", "it answers")


def iommu(facts: Facts) -> Iterator[Finding]:
    """Without an IOMMU in use libxl assigns nothing to an HVM guest."""
    if isinstance(facts.directio, Missing):
        yield missing("iommu", facts.directio)
    elif facts.directio:
        yield Finding(OK, "iommu", "Xen uses an IOMMU (hvm_directio)")
    else:
        yield Finding(
            FAILURE, "iommu", "Xen uses no IOMMU, so no HVM guest can have a PCI device",
            "turn on VT-d or AMD-Vi in the firmware's setup, and remove iommu=0 from Xen's command line; see 'xl dmesg'",
        )  # fmt: skip


def console_ring(facts: Facts) -> Iterator[Finding]:
    """Only the console shows which rights domains hold.  Granting does without it, so that it never is a warning."""
    room, domains = facts.console_room, facts.domctl
    if isinstance(room, Missing):
        yield missing("console ring", room)
    elif isinstance(domains, Missing):
        yield missing("console ring", Skipped("domain control"))
    elif room is None:
        yield Finding(INFO, "console ring", "not full so far, so its size does not show: 'show' and 'verify' read it")
    elif room < domains * _DUMP_BYTES:
        yield Finding(
            INFO, "console ring",
            f"{room >> 10} KiB have no room for what Xen says of {domains} domains, which 'show', 'verify', 'map' and "
            "'record domain' read; the hook and grants do without",
            "boot Xen with conring_size=1M",
        )  # fmt: skip
    else:
        yield Finding(
            OK, "console ring", f"{room >> 10} KiB, with room for what 'show' and 'verify' read of {domains} domains"
        )
