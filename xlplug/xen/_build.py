# SPDX-License-Identifier: LGPL-2.1-only
"""Makes ``_ffi.py`` from ``decl/*.h``: ``python3 -m xlplug.xen._build``.

Out-of-line ABI mode: no compiler at install, and no parsing of C at run time.  Not imported by the package.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
#: In this order: a later file may use an earlier one's types.
LIBRARIES = (
    "xentoollog", "xenctrl", "xendevicemodel", "xenstore", "xenforeignmemory", "xenevtchn", "xentoolcore", "seccomp",
)  # fmt: skip


def generate(target: Path) -> None:
    """Write the generated module to ``target``."""
    from cffi import FFI

    ffi = FFI()
    # Not of a Xen library: an opaque type, and three names of libc.
    ffi.cdef("struct e820entry; void free(void *); extern FILE *stderr; long syscall(long number, ...);")
    seen: set[str] = set()
    for name in LIBRARIES:
        lines = []
        for line in (HERE / "decl" / f"{name}.h").read_text().splitlines():
            # The same typedef in two files is fine for C and an error for cffi.
            if line.startswith("typedef") and line.endswith(";"):
                if line in seen:
                    continue
                seen.add(line)
            lines.append(line)
        ffi.cdef("\n".join(lines))
    ffi.set_source("xlplug.xen._ffi", None)
    ffi.emit_python_code(str(target))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "_ffi.py")
