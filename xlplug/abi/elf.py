# SPDX-License-Identifier: LGPL-2.1-only
"""Reading what a program imports out of its ELF file, with pyelftools, and finding the libraries that it names.

pyelftools is imported lazily and only here; everything else works without it.
"""

import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from typing import IO, Any

from xlplug.abi.symbols import Imported, Imports, Report, judge, xens_libraries
from xlplug.hook.device_model import is_ours
from xlplug.model.errors import HostError

__all__ = ["ProgramError", "find_libraries", "look_into", "read_imports"]

#: What the loader looks through without a configuration.  Source: ld.so(8); the second is Debian's.
_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_CACHE = "/etc/ld.so.cache"
#: More than a program has of sections, symbols and the rest together: QEMU 5.2 has 18,000 symbols, most of them its own.
_LIMIT = 100_000
#: And more bytes than all their names: in a damaged file every one of them may be as long as the file.
_TEXT_LIMIT = 16 << 20
#: SHF_COMPRESSED, see elf(5): never of what the loader reads, and pyelftools would expand it to any size.
_COMPRESSED = 0x800
_FOLDER_LIMIT = 100  # in DT_RPATH and DT_RUNPATH together, each of which is looked through for each library
_ANOTHER = "give the path of a QEMU: xlplug abi /usr/bin/qemu-system-i386"


class ProgramError(HostError):
    """A file whose imports cannot be read: ``why`` is a phrase without the file's name."""

    def __init__(self, path: str, why: str, *, hint: str = _ANOTHER, code: str = "") -> None:
        super().__init__(f"{path}: {why}", hint=hint, code=code)
        self.why = why


def look_into(path: str, running: str) -> Report:
    """What the program at ``path`` takes from Xen's libraries, and whether that fits ``running``, Xen's version or "".

    Raises:
        HostError, ProgramError: as `read_imports`.
    """
    imports = read_imports(path)
    return judge(path, imports, find_libraries(path, imports), running)


def read_imports(path: str) -> Imports:
    """The imports of the program at ``path``.

    Raises:
        HostError: pyelftools is not installed.
        ProgramError: the file cannot be read, or is not an x86 program that imports anything.
    """
    try:
        from elftools.common.exceptions import ELFError  # noqa: F401 - whether it is there
    except ImportError as error:
        raise HostError(
            "this needs pyelftools, which is not installed",
            hint="install it (Debian: python3-pyelftools)",
            code="XLP853",
        ) from error
    try:
        # A pipe would be waited for, and a device has no end.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ProgramError(path, "not a regular file", code="XLP851")
            head = file.read(4)
            if head[:2] == b"#!":
                what = "xlplug's own hook" if is_ours(path) else "a script"
                raise ProgramError(
                    path, f"{what}, not a program", hint="give the path of the QEMU that it starts", code="XLP851"
                )
            if head != b"\x7fELF":
                raise ProgramError(path, "not an ELF file", code="XLP851")
            file.seek(0)
            return _read(path, file)
    except OSError as error:
        raise ProgramError(path, error.strerror or str(error), code="XLP851") from error


def _read(path: str, file: IO[bytes]) -> Imports:
    from elftools.elf.elffile import ELFFile

    try:
        elf, bounded = ELFFile(file), _Bounded()
        machine, kind, header = elf["e_machine"], elf["e_type"], elf.num_sections()
        sections = {section["sh_type"]: section for section in bounded(elf.iter_sections())}
        if machine in ("EM_X86_64", "EM_386") and "SHT_DYNAMIC" in sections and "SHT_DYNSYM" in sections:
            return _imports(sections, bounded)
        dynamic = any(segment["p_type"] == "PT_DYNAMIC" for segment in bounded(elf.iter_segments()))
    except HostError:
        raise
    except Exception as error:
        # pyelftools trusts the file, so a damaged one can raise anything.
        raise ProgramError(
            path, "a damaged ELF file", hint="reinstall the package that it is from", code="XLP852"
        ) from error
    if machine not in ("EM_X86_64", "EM_386"):
        raise ProgramError(path, f"built for another machine ({machine}), not for x86", code="XLP851")
    if kind not in ("ET_EXEC", "ET_DYN"):
        raise ProgramError(path, f"not a program ({kind})", code="XLP851")
    if not header:
        raise ProgramError(path, "without section headers, so its imports cannot be read", code="XLP851")
    if dynamic:
        raise ProgramError(path, "debugging symbols only, not the program", code="XLP851")
    raise ProgramError(path, "linked statically, so it imports nothing", code="XLP851")


def _imports(sections: dict[str, Any], bounded: "_Bounded") -> Imports:
    needed: list[str] = []
    rpath: list[str] = []
    runpath: list[str] = []
    for tag in bounded(sections["SHT_DYNAMIC"].iter_tags()):
        if tag.entry.d_tag == "DT_NEEDED":
            needed.append(bounded.text(tag.needed))
        elif tag.entry.d_tag == "DT_RPATH":
            rpath += filter(None, bounded.text(tag.rpath).split(":"))
        elif tag.entry.d_tag == "DT_RUNPATH":
            runpath += filter(None, bounded.text(tag.runpath).split(":"))
    if len(rpath) + len(runpath) > _FOLDER_LIMIT:
        raise ValueError(rpath)
    versions: dict[int, tuple[str, str]] = {}
    if "SHT_GNU_verneed" in sections:
        for file, names in bounded(sections["SHT_GNU_verneed"].iter_versions()):
            for name in bounded(names):
                versions[name["vna_other"] & 0x7FFF] = (
                    bounded.text(file.name),
                    bounded.text(name.name),
                )  # bit 15: hidden
    found = []
    for name, index in bounded(_undefined(sections["SHT_DYNSYM"], sections.get("SHT_GNU_versym"))):
        library, version = versions.get(index & 0x7FFF, ("", ""))  # 0 and 1 are "local" and "global": no version
        found.append(Imported(bounded.text(name), library, version))
    return Imports(tuple(needed), tuple(found), tuple(runpath), tuple(rpath))


def _undefined(table: Any, indices: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - pyelftools has no types
    """Name and version index of each undefined symbol.

    The two tables are read as a whole: pyelftools takes each of QEMU 5.2's 18,000 symbols apart, which is half a second.
    """
    # st_name and st_shndx.  Source: elf(5), Elf64_Sym and Elf32_Sym; x86 is little-endian.
    layout = "<I2xH16x" if table.elffile.elfclass == 64 else "<I10xH"
    names, versions = _whole(table.stringtable), _whole(indices) if indices is not None else b""
    for number, (at, section) in enumerate(struct.iter_unpack(layout, _whole(table))):
        if section != 0 or at == 0:  # SHN_UNDEF, and a name
            continue
        name = names[at : names.index(b"\0", at)].decode("utf-8", "replace")
        yield name, struct.unpack_from("<H", versions, 2 * number)[0] if versions else 0


def _whole(section: Any) -> bytes:  # noqa: ANN401 - pyelftools has no types
    """A section as it is in the file, so never longer than the file."""
    if section["sh_flags"] & _COMPRESSED:
        raise ValueError(section.name)
    return bytes(section.data())


class _Bounded:
    """Hands out at most _LIMIT items of one file: in a damaged file a table may lead back to itself."""

    def __init__(self) -> None:
        self.left = _LIMIT
        self.text_left = _TEXT_LIMIT

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if not self.left:
                raise ValueError(item)
            self.left -= 1
            yield item

    def text(self, name: object) -> str:
        """A name, as long as all of them together are not too long."""
        text = str(name)
        self.text_left -= len(text)
        if self.text_left < 0:
            raise ValueError(text[:80])
        return text


def find_libraries(
    program: str, imports: Imports, folders: tuple[str, ...] = _FOLDERS, cache: str = _CACHE
) -> dict[str, str | None]:
    """The file of each of Xen's libraries that a program needs, as ld.so(8) would find it; None where it is not there."""
    origin = os.path.dirname(os.path.realpath(program))
    kind = _kind(program)
    variable = filter(None, re.split("[:;]", os.environ.get("LD_LIBRARY_PATH", "")))
    # DT_RPATH goes before the variable, and counts only without DT_RUNPATH, which goes after it.
    first = [*(() if imports.runpath else imports.rpath), *variable, *imports.runpath]
    first = [re.sub(r"\$(?:ORIGIN|\{ORIGIN\})", lambda _: origin, folder) for folder in first]
    try:
        with open(cache, "rb") as file:
            cached = file.read()
    except OSError:
        cached = b""
    found: dict[str, str | None] = {}
    for soname in xens_libraries(imports):
        # The cache keeps names and paths as strings, one after another.
        listed = re.findall(rb"(/[^\0]*/" + re.escape(os.fsencode(soname)) + rb")\0", cached)
        paths = [*(f"{folder}/{soname}" for folder in first), *map(os.fsdecode, listed)]
        paths += [f"{folder}/{soname}" for folder in folders]
        found[soname] = next((path for path in paths if os.path.isfile(path) and _may_load(path, kind)), None)
    return found


def _kind(path: str) -> bytes:
    """Class and machine of an ELF file, by which the loader passes over a library of another; empty for no ELF file."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return b""
    return head[4:5] + head[18:20] if head.startswith(b"\x7fELF") else b""


def _may_load(path: str, kind: bytes) -> bool:
    return not kind or _kind(path) in (b"", kind)
