# SPDX-License-Identifier: LGPL-2.1-only
"""Our declarations against the real headers: C itself rejects a redeclaration that differs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import xlplug.xen
from tests.abi.oracle import require

DECL = Path(xlplug.xen.__file__).parent / "decl"
#: Headers, and what stands between the "cffi-only" marks said again as assertions.
LIBRARIES = {
    "xenctrl": (["xenctrl.h"], ["sizeof(xen_pfn_t) == 8", "sizeof(struct e820entry) == 20", "sizeof(xc_domaininfo_t) <= 256",
        "sizeof(xc_physinfo_t) <= 256", "offsetof(xc_physinfo_t, capabilities) == 28", "XEN_SYSCTL_PHYSCAP_hvm == 1",
        "XEN_SYSCTL_PHYSCAP_directio == 4"]),
    "xentoollog": (["stdio.h", "xentoollog.h"], ["XTL_NONE == 0", "XTL_DEBUG == 1", "XTL_ERROR == 8", "XTL_CRITICAL == 9"]),
    "xenstore": (["xenstore.h"], ["sizeof(struct xs_permissions) == 8", "offsetof(struct xs_permissions, perms) == 4"]),
    "xendevicemodel": (
        ["stddef.h", "xenctrl.h", "xendevicemodel.h"],
        [
            "sizeof(domid_t) == 2", "sizeof(ioservid_t) == 2", "sizeof(evtchn_port_t) == 4", "HVMMEM_ioreq_server == 4",
            "sizeof(struct xen_dm_op_modified_memory_extent) == 16",
            "offsetof(struct xen_dm_op_modified_memory_extent, first_pfn) == 8",
        ],
    ),
}  # fmt: skip


def compile_with(headers: list[str], text: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("gcc") is None or not Path("/usr/include/xenctrl.h").exists():
        require("abi", "gcc and libxen-dev are not installed")
    includes = "".join(f"#include <{h}>\n" for h in ["stdint.h", "stdbool.h", "stddef.h", *headers])
    source = f"#define XC_WANT_COMPAT_MAP_FOREIGN_API\n#define __XEN_TOOLS__ 1\n{includes}{text}\n"
    return subprocess.run(
        ["gcc", "-std=gnu11", "-Werror", "-fsyntax-only", "-x", "c", "-"], input=source, capture_output=True, text=True
    )


def declarations(name: str) -> str:
    return re.sub(r"/\* cffi-only.*?/\* end \*/", "", (DECL / f"{name}.h").read_text(), flags=re.S)


@pytest.mark.parametrize("name", LIBRARIES)
def test_declarations_fit_the_installed_headers(name: str) -> None:
    headers, facts = LIBRARIES[name]
    text = declarations(name) + "".join(f'_Static_assert({fact}, "{fact}");\n' for fact in facts)
    done = compile_with(headers, text)
    assert done.returncode == 0, done.stderr


def test_a_narrowed_integer_would_be_caught() -> None:
    text = declarations("xenctrl").replace("uint64_t max_memkb", "uint32_t max_memkb")
    assert "conflicting types" in compile_with(["xenctrl.h"], text).stderr


def test_every_entry_point_of_libxendevicemodel_is_declared() -> None:
    header = Path("/usr/include/xendevicemodel.h")
    if not header.exists():
        require("abi", "libxen-dev is not installed")
    wanted = set(re.findall(r"\b(xendevicemodel_\w+)\(", header.read_text()))
    assert wanted <= set(re.findall(r"\b(xendevicemodel_\w+)\(", declarations("xendevicemodel")))
