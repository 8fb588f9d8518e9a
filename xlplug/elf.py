# SPDX-License-Identifier: LGPL-2.1-only
"""Reading what a program imports out of its ELF file, with pyelftools, and finding the libraries that it names.

pyelftools is only asked for here, and only when it is needed: nothing else of xlplug does without it.
"""

import os
import re
from typing import IO, Any

from xlplug.abi import Imported, Imports, is_xens
from xlplug.devmodel import is_ours
from xlplug.errors import HostError

__all__ = ["find_libraries", "read_imports"]

#: What the loader looks through without a configuration.  Source: ld.so(8); the second is Debian's.
_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_CACHE = "/etc/ld.so.cache"
#: More of anything than a program has: QEMU, the largest there is, has some 2,000 undefined symbols.
_LIMIT = 100_000
_ANOTHER = "give the path of a QEMU: xlplug abi /usr/bin/qemu-system-i386"


def read_imports(path: str) -> Imports:
    """The imports of the program at ``path``.

    Raises:
        HostError: pyelftools is not installed; or the file cannot be read, or is no x86 program that imports anything.
    """
    try:
        from elftools.common.exceptions import ELFError  # noqa: F401 - whether it is there
    except ImportError as error:
        raise HostError(
            "this needs pyelftools, which is not installed", hint="install it (Debian: python3-pyelftools)"
        ) from error
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            if head[:2] == b"#!":
                what = "xlplug's own hook" if is_ours(path) else "a script"
                raise HostError(f"{path} is {what}, and no program", hint="give the path of the QEMU that it starts")
            if head != b"\x7fELF":
                raise HostError(f"{path} is no ELF file", hint=_ANOTHER)
            file.seek(0)
            return _read(path, file)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror or error}", hint=_ANOTHER) from error


def _read(path: str, file: IO[bytes]) -> Imports:
    from elftools.elf.elffile import ELFFile

    damaged = HostError(f"{path} is a damaged ELF file", hint="reinstall the package that it is from")
    try:
        elf = ELFFile(file)
        machine = elf["e_machine"]
        sections = {section["sh_type"]: section for section in _bounded(elf.iter_sections())}
        if machine in ("EM_X86_64", "EM_386") and "SHT_DYNAMIC" in sections and "SHT_DYNSYM" in sections:
            return _imports(sections)
        header = elf.num_sections()
    except HostError:
        raise
    except Exception as error:
        # pyelftools trusts the file: a damaged one ends it with whatever exception is next.
        raise damaged from error
    if machine not in ("EM_X86_64", "EM_386"):
        raise HostError(f"{path} is for another machine ({machine}), and xlplug is for Xen on x86", hint=_ANOTHER)
    if not header:
        raise HostError(f"{path} has no section headers, so what it imports cannot be told", hint=_ANOTHER)
    raise HostError(f"{path} is linked statically, so what it imports cannot be told", hint=_ANOTHER)


def _imports(sections: dict[str, Any]) -> Imports:
    needed, runpath = [], []
    for tag in _bounded(sections["SHT_DYNAMIC"].iter_tags()):
        if tag.entry.d_tag == "DT_NEEDED":
            needed.append(str(tag.needed))
        elif tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            runpath += str(getattr(tag, "runpath", "") or getattr(tag, "rpath", "")).split(":")
    versions: dict[int, tuple[str, str]] = {}
    if "SHT_GNU_verneed" in sections:
        for file, names in _bounded(sections["SHT_GNU_verneed"].iter_versions()):
            for name in _bounded(names):
                versions[name["vna_other"] & 0x7FFF] = (str(file.name), str(name.name))  # bit 15: hidden
    symbols, of = sections["SHT_DYNSYM"], sections.get("SHT_GNU_versym")
    found = []
    for number, symbol in enumerate(_bounded(symbols.iter_symbols())):
        if symbol["st_shndx"] != "SHN_UNDEF" or not symbol.name:
            continue
        index = of.get_symbol(number)["ndx"] if of is not None else 0
        # 0 and 1, which pyelftools spells out, are "local" and "global": no version.
        library, version = versions.get(index & 0x7FFF, ("", "")) if isinstance(index, int) else ("", "")
        found.append(Imported(str(symbol.name), library, version))
    return Imports(tuple(needed), tuple(found), tuple(filter(None, runpath)))


def _bounded(items: Any) -> Any:  # noqa: ANN401 - pyelftools has no types
    """The items, up to a number that only a damaged file has."""
    for number, item in enumerate(items):
        if number == _LIMIT:
            raise ValueError(number)
        yield item


def find_libraries(
    program: str, imports: Imports, folders: tuple[str, ...] = _FOLDERS, cache: str = _CACHE
) -> dict[str, str | None]:
    """The file of each of Xen's libraries that a program needs, as ld.so(8) would find it; None where it is not there."""
    origin = os.path.dirname(os.path.realpath(program))
    first = [re.sub(r"\$(?:ORIGIN|\{ORIGIN\})", lambda _: origin, folder) for folder in imports.runpath]
    first += filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    try:
        with open(cache, "rb") as file:
            cached = file.read()
    except OSError:
        cached = b""
    found: dict[str, str | None] = {}
    for soname in filter(is_xens, imports.needed):
        # The cache keeps names and paths as strings, one after another.
        listed = re.findall(rb"(/[^\0]*/" + re.escape(soname).encode() + rb")\0", cached)
        paths = [*(f"{folder}/{soname}" for folder in first), *map(os.fsdecode, listed)]
        paths += [f"{folder}/{soname}" for folder in folders]
        found[soname] = next((path for path in paths if os.path.isfile(path)), None)
    return found
