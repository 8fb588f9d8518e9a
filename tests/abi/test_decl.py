# SPDX-License-Identifier: LGPL-2.1-only
"""Our declarations against the real headers: C itself rejects a redeclaration that differs."""

import re
import shutil
import subprocess
import tempfile
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
    "xenforeignmemory": (["xenctrl.h", "xenforeignmemory.h"], ["sizeof(xen_pfn_t) == 8", "XENMEM_resource_ioreq_server == 0",
        "XENMEM_resource_ioreq_server_frame_ioreq(0) == 1"]),
    "xenevtchn": (["xenevtchn.h"], ["sizeof(evtchn_port_t) == 4", "sizeof(xenevtchn_port_or_error_t) == 4"]),
    "xentoolcore": (["xentoolcore.h"], []),
    "seccomp": (["seccomp.h"], ["sizeof(struct scmp_arg_cmp) == 24", "offsetof(struct scmp_arg_cmp, op) == 4",
        "offsetof(struct scmp_arg_cmp, datum_a) == 8", "SCMP_CMP_EQ == 4", "sizeof(scmp_filter_ctx) == 8"]),
}  # fmt: skip


def test_the_ioreq_page_is_as_we_read_it() -> None:
    """xlplug/xen/ioreq.py takes it apart at these offsets; the bit fields are looked at by setting them."""
    facts = ["sizeof(ioreq_t) == 32", "STATE_IOREQ_READY == 1", "STATE_IOREQ_INPROCESS == 2", "STATE_IORESP_READY == 3",
             "IOREQ_TYPE_PIO == 0", "IOREQ_TYPE_COPY == 1", "IOREQ_TYPE_PCI_CONFIG == 2", "IOREQ_TYPE_TIMEOFFSET == 7",
             "IOREQ_TYPE_INVALIDATE == 8", "IOREQ_READ == 1", "HVM_IOREQSRV_BUFIOREQ_OFF == 0"]  # fmt: skip
    places = {"addr": 0, "data": 8, "count": 16, "size": 20, "vp_eport": 24, "type": 31}
    facts += [f"offsetof(ioreq_t, {name}) == {offset}" for name, offset in places.items()]
    flags = {".state = 15": 0x0F, ".data_is_ptr = 1": 0x10, ".dir = 1": 0x20, ".df = 1": 0x40}
    facts += [f"((union look){{ {{ {field} }} }}).bytes[30] == {value}" for field, value in flags.items()]
    checks = "".join(f'if (!({fact})) return puts("{fact}");\n' for fact in facts)
    union = "union look { ioreq_t request; unsigned char bytes[32]; };"
    done = run_with(
        ["stdio.h", "xenctrl.h", "xen/hvm/ioreq.h", "xen/hvm/dm_op.h"],
        f"{union} int main(void) {{ {checks} return 0; }}",
    )
    assert done.returncode == 0, done.stdout + done.stderr


def compile_with(headers: list[str], text: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("gcc") is None or not Path("/usr/include/xenctrl.h").exists():
        require("abi", "gcc and libxen-dev are not installed")
    if "seccomp.h" in headers and not Path("/usr/include/seccomp.h").exists():
        require("abi", "libseccomp-dev is not installed")
    includes = "".join(f"#include <{h}>\n" for h in ["stdint.h", "stdbool.h", "stddef.h", *headers])
    source = f"#define XC_WANT_COMPAT_MAP_FOREIGN_API\n#define __XEN_TOOLS__ 1\n{includes}{text}\n"
    return subprocess.run(
        ["gcc", "-std=gnu11", "-Werror", "-fsyntax-only", "-x", "c", "-"], input=source, capture_output=True, text=True
    )


def run_with(headers: list[str], text: str) -> subprocess.CompletedProcess[str]:
    """Compile a program, and run it; what the compiler complains of is the result, too."""
    if shutil.which("gcc") is None or not Path("/usr/include/xenctrl.h").exists():
        require("abi", "gcc and libxen-dev are not installed")
    includes = "".join(f"#include <{h}>\n" for h in ["stdint.h", "stdbool.h", "stddef.h", *headers])
    with tempfile.TemporaryDirectory() as folder:
        source = f"#define __XEN_TOOLS__ 1\n{includes}{text}\n"
        argv = ["gcc", "-std=gnu11", "-x", "c", "-", "-o", f"{folder}/a"]
        done = subprocess.run(argv, input=source, capture_output=True, text=True)
        return done if done.returncode else subprocess.run([f"{folder}/a"], capture_output=True, text=True)


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
