# SPDX-License-Identifier: LGPL-2.1-only
"""Which ABI-unstable functions a device model still imports, and whose task each of them is now.

The experiment of the thread "qemu and Xen ABI-unstable libs" (xen-devel, September 2020), as values.  `SYMBOLS` has what
each function was found to be; one that is not in it is shown as unknown.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from xlplug.model.problem import Problem

__all__ = [ "OWNERS", "SYMBOLS", "Imported", "Imports", "Library", "Report", "is_xens",
    "judge", "xen_version_of", "xens_libraries",
]  # fmt: skip

XLPLUG, SHARED, DMOP, STABLE_CALL, UNSTABLE, LAST, UNKNOWN = (
    "xlplug", "shared", "dmop", "hypercall", "unstable", "last", "unknown",
)  # fmt: skip
#: What each answer to "who owns it now?" means, in the order of a report.
OWNERS = {
    XLPLUG: "done by xlplug before the device model starts",
    SHARED: "legacy ranges: granted by xlplug, mapped by the device model; BARs: the device model alone",
    DMOP: "a device model operation of libxendevicemodel does the same",
    STABLE_CALL: "stays with the device model: only the library is unstable, not what it calls",
    UNSTABLE: "stays unstable: nothing stable does the same",
    LAST: "goes when all the others have gone",
    UNKNOWN: "not known to this version of xlplug",
}


class _Symbol(NamedTuple):
    owner: str
    text: str


#: Source: the thread's table, in docs/abi.md, and two more of QEMU 10.0, for a PVH dom0 (hw/xen/xen_pt.c).
SYMBOLS = {
    "xc_domain_iomem_permission": _Symbol(XLPLUG, "VGA memory, VBIOS and OpRegion are granted"),
    "xc_domain_populate_physmap_exact": _Symbol(XLPLUG, "video RAM and ROMs, with xlplug_preload=1"),
    "xc_domain_ioport_mapping": _Symbol(SHARED, "a BAR's place is the guest's to choose"),
    "xc_domain_memory_mapping": _Symbol(SHARED, "a BAR's place is the guest's to choose"),
    "xc_domain_shutdown": _Symbol(DMOP, "xendevicemodel_shutdown, with this as QEMU's fallback"),
    "xc_get_hvm_param": _Symbol(DMOP, "the ioreq server operations, with this for Xen before 4.6"),
    "xc_physdev_map_pirq": _Symbol(STABLE_CALL, "PHYSDEVOP_map_pirq"),
    "xc_physdev_map_pirq_gsi": _Symbol(STABLE_CALL, "PHYSDEVOP_map_pirq"),
    "xc_physdev_map_pirq_msi": _Symbol(STABLE_CALL, "PHYSDEVOP_map_pirq"),
    "xc_physdev_unmap_pirq": _Symbol(STABLE_CALL, "PHYSDEVOP_unmap_pirq"),
    "xc_pcidev_get_gsi": _Symbol(STABLE_CALL, "an ioctl of Linux's privcmd"),
    "xc_set_hvm_param": _Symbol(UNSTABLE, "HVM_PARAM_ACPI_S_STATE; could become a device model operation"),
    "xc_domain_bind_pt_pci_irq": _Symbol(UNSTABLE, "a domctl"),
    "xc_domain_unbind_pt_irq": _Symbol(UNSTABLE, "a domctl"),
    "xc_domain_unbind_msi_irq": _Symbol(UNSTABLE, "a domctl"),
    "xc_domain_update_msi_irq": _Symbol(UNSTABLE, "a domctl"),
    "xc_interface_open": _Symbol(LAST, ""),
    "xc_interface_close": _Symbol(LAST, ""),
}

#: An ABI-unstable Xen library has Xen's own version in its soname (4.14 and later; libxenstore.so.3.0 is stable).
#: Source: tools/libs/libs.mk, "MAJOR ?=".
_UNSTABLE = re.compile(r"libx(?:en|l)\w*\.so\.([4-9]\.\d+)")
_XEN = re.compile(r"libx(?:en|l)\w*\.so\.[\d.]+")
#: How the names of a library's functions begin.  libxenguest has xc_ as well: such a name goes to libxenctrl where both are.
_PREFIXES = (
    ("xc_", "libxenctrl.so."), ("xc_", "libxenguest.so."), ("xs_", "libxenstore.so."), ("libxl_", "libxenlight.so."),
    ("xlu_", "libxlutil.so."),
)  # fmt: skip


class Imported(NamedTuple):
    """A function that a program takes from a library; ``library`` and ``version`` are "" where the program names none."""

    name: str
    library: str = ""
    version: str = ""


class Imports(NamedTuple):
    """What a program's file says: its libraries (DT_NEEDED) in order, its undefined dynamic symbols, where to look first."""

    needed: tuple[str, ...]
    symbols: tuple[Imported, ...]
    runpath: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()


class Library(NamedTuple):
    """A Xen library that a program needs: Xen's version in its name ("" for a stable one), imports, and its file."""

    soname: str
    xen: str
    nr_symbols: int
    path: str | None


class Report(NamedTuple):
    """``unstable`` is (import, owner, text); ``running`` is Xen's version ("4.17.4"), "" where none runs.

    ``problems`` are why the program cannot run on the running Xen.
    """

    program: str
    libraries: tuple[Library, ...]
    unstable: tuple[tuple[Imported, str, str], ...]
    running: str
    problems: tuple[Problem, ...]


def xen_version_of(soname: str) -> str:
    """Xen's version in the name of an ABI-unstable library, "" for any other."""
    match = _UNSTABLE.fullmatch(soname)
    return match[1] if match else ""


def is_xens(soname: str) -> bool:
    """Whether a library is one of Xen's, stable or not."""
    return _XEN.fullmatch(soname) is not None


def xens_libraries(imports: Imports) -> tuple[str, ...]:
    """Xen's libraries that a program names, in order: those it needs, then those that only its symbols' versions name."""
    named = dict.fromkeys([*imports.needed, *(symbol.library for symbol in imports.symbols)])
    return tuple(soname for soname in named if is_xens(soname))


def judge(program: str, imports: Imports, paths: dict[str, str | None], running: str) -> Report:
    """The report; ``paths`` has the file of each of Xen's libraries, None for one that is not installed."""
    ours = xens_libraries(imports)
    owners = {symbol: _library_of(symbol, ours) for symbol in imports.symbols}
    libraries = tuple(
        Library(soname, xen_version_of(soname), sum(owner == soname for owner in owners.values()), paths.get(soname))
        for soname in ours
    )
    order = list(OWNERS)
    unstable = []
    for symbol, soname in owners.items():
        # A module may leave its library to the program that loads it: a name that begins with xc_ counts all the same.
        if xen_version_of(soname) or (not (soname or symbol.library) and symbol.name.startswith("xc_")):
            owner, text = SYMBOLS.get(symbol.name, _Symbol(UNKNOWN, ""))
            unstable.append((symbol._replace(library=soname), owner, text))
    unstable.sort(key=lambda row: (order.index(row[1]), row[0].name))
    return Report(program, libraries, tuple(unstable), running, _problems(libraries, running))


def _library_of(symbol: Imported, needed: Sequence[str]) -> str:
    """The Xen library that a function comes from, "" for none: by the symbol's version, else by its name.

    The unstable libraries of Xen 4.14, and its libxenstore, have no symbol versions.
    """
    if symbol.library:
        return symbol.library if symbol.library in needed else ""
    for prefix, stem in _PREFIXES:
        if symbol.name.startswith(prefix):
            found = next((soname for soname in needed if soname.startswith(stem)), "")
            if found:
                return found
    return ""


def _problems(libraries: Sequence[Library], running: str) -> tuple[Problem, ...]:
    found = []
    match = re.match(r"\d+\.\d+", running)
    short = match[0] if match else ""
    for library in libraries:
        package = f"libxenmisc{library.xen}" if library.xen else ""
        if library.xen and short and library.xen != short:
            advice = f"install a device model that was built for Xen {short}, or boot Xen {library.xen}"
            found.append(Problem(f"it needs {library.soname}, but Xen {running} is running", advice, code="XLP854"))
        elif running and library.path is None:
            how = f" (Debian: {package})" if package else ""
            found.append(
                Problem(f"it cannot start: {library.soname} is not installed", f"install it{how}", code="XLP854")
            )
    return tuple(found)
