# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug abi`` on programs that are compiled here, whole and damaged."""

import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import jsonschema
import pytest

from tests.abi.oracle import require
from tests.forked import xlplug
from xlplug.abi import elf, symbols
from xlplug.abi.elf import find_libraries, look_into, read_imports
from xlplug.abi.symbols import OWNERS, SYMBOLS, Imported, Imports, judge
from xlplug.commands import abi
from xlplug.doctor import survey_hook
from xlplug.doctor.reading import Broken, Skipped, Unread
from xlplug.model.errors import HostError

ROOT = Path(__file__).parents[3]
CTRL = ("xc_interface_open", "xc_domain_iomem_permission", "xc_set_hvm_param", "xc_brand_new")
MODEL = ("xendevicemodel_open", "xendevicemodel_shutdown")


def compile_(*argv: str | Path, cwd: Path) -> None:
    done = subprocess.run(["gcc", "-O0", *argv], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def library(folder: Path, soname: str, functions: tuple[str, ...], version: str = "") -> None:
    source = folder / "library.c"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in functions))
    words: list[str] = []
    if version:
        (folder / "versions").write_text(f"{version} {{ global: *; }};\n")
        words = [f"-Wl,--version-script={folder}/versions"]
    compile_("-shared", "-fPIC", f"-Wl,-soname,{soname}", *words, "-o", soname, source, cwd=folder)


def program(folder: Path, name: str, functions: tuple[str, ...], *libraries: str) -> Path:
    source = folder / f"{name}.c"
    source.write_text(
        "".join(f"int {f}(void);\n" for f in functions)
        + f"int main(void) {{ return {' + '.join(f'{f}()' for f in functions) or '0'}; }}\n"
    )
    paths = [str(folder / soname) for soname in libraries]
    compile_("-o", name, source, *paths, "-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN", cwd=folder)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        require("abi", "gcc is not installed")
    made = tmp_path_factory.mktemp("elf")
    library(made, "libxenctrl.so.4.17", CTRL, "VERS_4.17.0")
    library(made, "libxenctrl.so.4.14", CTRL)
    library(made, "libxendevicemodel.so.1", MODEL, "VERS_1.0")
    library(made, "libother.so.1", ("xc_not_xens",), "OTHER")
    return made


@pytest.fixture(scope="module")
def qemu(folder: Path) -> Path:
    return program(
        folder, "qemu", (*CTRL, *MODEL, "xc_not_xens"), "libxenctrl.so.4.17", "libxendevicemodel.so.1", "libother.so.1"
    )


def report(path: Path, running: str = "4.17.4") -> symbols.Report:
    return look_into(str(path), running)


def test_imports(qemu: Path) -> None:
    imports = read_imports(str(qemu))
    assert set(imports.needed) == {"libxenctrl.so.4.17", "libxendevicemodel.so.1", "libother.so.1", "libc.so.6"}
    assert imports.runpath == ("$ORIGIN",)
    symbols = {symbol.name: symbol for symbol in imports.symbols}
    for name in CTRL:
        assert symbols[name] == Imported(name, "libxenctrl.so.4.17", "VERS_4.17.0")
    assert symbols["xc_not_xens"].library == "libother.so.1"


def test_report(qemu: Path, folder: Path) -> None:
    made = report(qemu)
    assert made.problems == ()
    assert {(lib.soname, lib.xen, lib.nr_symbols, lib.path) for lib in made.libraries} == {
        ("libxenctrl.so.4.17", "4.17", 4, f"{folder}/libxenctrl.so.4.17"),
        ("libxendevicemodel.so.1", "", 2, f"{folder}/libxendevicemodel.so.1"),
    }
    assert [(symbol.name, owner) for symbol, owner, _ in made.unstable] == [
        ("xc_domain_iomem_permission", "xlplug"),
        ("xc_set_hvm_param", "unstable"),
        ("xc_interface_open", "last"),
        ("xc_brand_new", "unknown"),
    ]
    text = abi.abi_text(made)
    assert "It was built for the running Xen, 4.17.4." in text
    assert "Not known to this version of xlplug (1)\n  xc_brand_new\n" in text


def test_a_library_without_versions(folder: Path) -> None:
    """As those of Xen 4.14: a symbol does not tell where it is from, but by its name."""
    old = program(folder, "old", (*CTRL, *MODEL), "libxenctrl.so.4.14", "libxendevicemodel.so.1")
    made = report(old, "4.14.6")
    assert made.problems == ()
    assert {symbol.name: symbol.library for symbol, _, _ in made.unstable} == dict.fromkeys(CTRL, "libxenctrl.so.4.14")


def test_other_libraries_without_versions(tmp_path: Path, folder: Path) -> None:
    """As 4.14's xl: its libraries must not seem to give it nothing."""
    names = {
        "libxenlight.so.4.14": "libxl_ctx_alloc", "libxlutil.so.4.14": "xlu_cfg_init", "libxenguest.so.4.14": "xc_dom_allocate",
        "libxenstore.so.3.0": "xs_open",
    }  # fmt: skip
    for soname, name in names.items():
        library(tmp_path, soname, (name,))
    made = report(program(tmp_path, "xl", tuple(names.values()), *names), "")
    assert {lib.soname: lib.nr_symbols for lib in made.libraries} == dict.fromkeys(names, 1)
    assert {symbol.library: symbol.name for symbol, _, _ in made.unstable} == {
        soname: name for soname, name in names.items() if soname != "libxenstore.so.3.0"
    }


def test_a_function_whose_library_is_not_named_is_shown(tmp_path: Path, folder: Path) -> None:
    """A module of QEMU's may leave libxenctrl to the program that loads it."""
    (tmp_path / "m.c").write_text(
        "int xc_set_hvm_param(void), xc_novel(void); int f(void) { return xc_set_hvm_param() + xc_novel(); }"
    )
    compile_("-shared", "-fPIC", "-o", "m.so", "m.c", cwd=tmp_path)
    made = report(tmp_path / "m.so")
    assert [(symbol.name, symbol.library, owner) for symbol, owner, _ in made.unstable] == [
        ("xc_set_hvm_param", "", "unstable"), ("xc_novel", "", "unknown"),
    ]  # fmt: skip
    assert "It names no Xen library: the program that loads it must bring one." in abi.abi_text(made)
    shown = abi.abi_json(made)
    jsonschema.validate(shown, json.loads((ROOT / "docs" / "abi.schema.json").read_text()))
    assert [row["library"] for row in shown["unstable"]] == [None, None]


def test_a_library_that_only_the_versions_name(folder: Path) -> None:
    """As patchelf leaves it, where it has renamed what is needed."""
    imports = Imports(("libxenctrl.so.4.20",), (Imported("xc_interface_open", "libxenctrl.so.4.17", "VERS_4.17.0"),))
    made = judge("qemu", imports, find_libraries("qemu", imports, (str(folder),), "/nonexistent"), "4.20.4")
    assert [(symbol.name, symbol.library) for symbol, _, _ in made.unstable] == [
        ("xc_interface_open", "libxenctrl.so.4.17")
    ]
    assert "it needs libxenctrl.so.4.17, but Xen 4.20.4 is running" in str(made.problems[1])


@pytest.mark.parametrize(
    ("running", "problem"),
    [
        ("4.17", ""),
        ("4.17.0-pre", ""),
        ("4.17-unstable", ""),
        (
            "4.20.4",
            "it needs libxenctrl.so.4.17, but Xen 4.20.4 is running; install a device model that was built for Xen 4.20, or",
        ),
        ("4.1.6", "Xen 4.1.6 is running"),
        ("4.170", "Xen 4.170 is running"),
        ("", ""),
    ],
)
def test_another_xen(qemu: Path, running: str, problem: str) -> None:
    problems = report(qemu, running).problems
    assert len(problems) == (1 if problem else 0)
    assert problem in "".join(map(str, problems))


def test_a_library_that_is_not_installed(qemu: Path, tmp_path: Path) -> None:
    alone = tmp_path / "qemu"
    shutil.copy(qemu, alone)
    imports = read_imports(str(alone))
    paths = find_libraries(str(alone), imports, folders=(str(tmp_path),), cache=str(tmp_path / "none"))
    made = judge("qemu", imports, paths, "4.17.4")
    assert tuple(map(str, made.problems)) == (
        "it cannot start: libxenctrl.so.4.17 is not installed; install it (Debian: libxenmisc4.17) [XLP854]",
        "it cannot start: libxendevicemodel.so.1 is not installed; install it [XLP854]",
    )
    assert "NOT INSTALLED" in abi.abi_text(made)
    elsewhere = judge("qemu", imports, paths, "")
    assert elsewhere.problems == (), "where no Xen runs, a QEMU is only looked at"
    assert "NOT INSTALLED" in abi.abi_text(elsewhere)


def loaded(path: Path, folder: Path) -> str:
    """Which libxenctrl the loader takes, in its own words."""
    done = subprocess.run(
        ["ldd", path], capture_output=True, text=True, env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(folder)}
    )
    match = re.search(r"libxenctrl\S+ => (\S+) \(", done.stdout)
    assert match, done.stdout + done.stderr
    return match[1]


@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
def test_the_loader_agrees_on_the_order(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: str
) -> None:
    """DT_RUNPATH goes after LD_LIBRARY_PATH, DT_RPATH before it; a library for another machine is passed over."""
    (tmp_path / "qemu.c").write_text("int xc_interface_open(void); int main(void) { return xc_interface_open(); }")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here, there = (tmp_path / name / "libxenctrl.so.4.17" for name in ("here", "there"))
    for copy in (here, there):
        shutil.copy(folder / copy.name, copy)
    compile_("-o", "qemu", "qemu.c", here, f"-Wl,{tags}", "-Wl,-rpath,$ORIGIN/here", cwd=tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(there.parent))
    imports = read_imports(str(tmp_path / "qemu"))
    expected = there if tags.startswith("--enable") else here
    for other in (None, expected):
        if other is not None:
            data = bytearray(other.read_bytes())
            data[18:20] = (183).to_bytes(2, "little")  # e_machine: EM_AARCH64
            other.write_bytes(data)
            expected = here if expected == there else there
        assert os.path.realpath(loaded(tmp_path / "qemu", there.parent)) == str(expected)
        found = find_libraries(str(tmp_path / "qemu"), imports)["libxenctrl.so.4.17"]
        assert os.path.realpath(found or "") == str(expected)


def test_libraries_are_found_where_the_loader_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("run", "origin", "variable", "cached", "folder")
    imports = Imports(
        tuple(f"libxen{name}.so.1" for name in names), (), (str(tmp_path / "run"), "${ORIGIN}/../origin", "/none")
    )
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"libxen{name}.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{tmp_path}/variable")
    (tmp_path / "bin").mkdir()
    cache = tmp_path / "cache"
    cache.write_bytes(
        b"glibc-ld.so.cache1.1\0libxencached.so.1\0" + os.fsencode(tmp_path) + b"/cached/libxencached.so.1\0"
    )
    found = find_libraries(f"{tmp_path}/bin/qemu", imports, (f"{tmp_path}/folder",), str(cache))
    assert {soname: os.path.realpath(path or "") for soname, path in found.items()} == {
        f"libxen{name}.so.1": str(tmp_path / name / f"libxen{name}.so.1") for name in names
    }


@pytest.mark.parametrize(
    ("soname", "xens", "version"),
    [
        ("libxenctrl.so.4.17", True, "4.17"),
        ("libxenguest.so.4.14", True, "4.14"),
        ("libxenlight.so.4.20", True, "4.20"),
        ("libxlutil.so.4.20", True, "4.20"),
        ("libxenctrl.so.5.0", True, "5.0"),
        ("libxenstore.so.3.0", True, ""),
        ("libxenstore.so.4", True, ""),
        ("libxenforeignmemory.so.1", True, ""),
        ("libxcb.so.4.1", False, ""),
        ("libxml2.so.2", False, ""),
    ],
)
def test_sonames(soname: str, xens: bool, version: str) -> None:
    assert (symbols.is_xens(soname), symbols.xen_version_of(soname)) == (xens, version)


def test_every_function_of_the_thread_has_its_owner() -> None:
    """The sixteen of 2020, and the two of QEMU 10.0."""
    assert len(SYMBOLS) == 18
    assert {symbol.owner for symbol in SYMBOLS.values()} == set(OWNERS) - {"unknown"}
    listed = set(re.findall(r"`(xc_\w+)`", (ROOT / "docs" / "abi.md").read_text()))
    assert listed == set(SYMBOLS)


# what is no device model ----------------------------------------------------------------------------------------------


def refused(path: str | Path) -> str:
    with pytest.raises(HostError) as caught:
        read_imports(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_is_no_program(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none")
    assert "Is a directory" in refused(tmp_path)
    for name, data, text in (
        ("empty", b"", ": not an ELF file"),
        ("short", b"\x7fEL", ": not an ELF file"),
        ("magic", b"\x7fELF", ": a damaged ELF file"),
        ("script", b"#!/bin/sh\nexec qemu\n", ": a script, not a program"),
    ):
        (tmp_path / name).write_bytes(data)
        assert text in refused(tmp_path / name)
    assert ": xlplug's own hook" in refused(ROOT / "hooks" / "device-model")
    os.mkfifo(tmp_path / "pipe")
    assert ": not a regular file" in refused(tmp_path / "pipe")
    assert ": not a regular file" in refused("/dev/zero")


def test_programs_that_import_nothing(folder: Path) -> None:
    source = folder / "nothing.c"
    source.write_text("void _start(void) { for (;;); }\n")
    compile_("-static", "-nostdlib", "-o", "static", source, cwd=folder)
    assert "linked statically" in refused(folder / "static")
    plain = program(folder, "plain", ())
    assert report(plain, "4.17.4").libraries == ()
    assert "not a device model" in abi.abi_text(report(plain))
    data = bytearray((folder / "plain").read_bytes())
    data[18:20] = (183).to_bytes(2, "little")  # e_machine: EM_AARCH64
    (folder / "arm").write_bytes(data)
    assert "built for another machine (EM_AARCH64)" in refused(folder / "arm")
    data = bytearray((folder / "plain").read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[60:64] = bytes(4)  # e_shnum, e_shstrndx
    (folder / "bare").write_bytes(data)
    assert "without section headers" in refused(folder / "bare")
    compile_("-c", "-o", "object.o", "plain.c", cwd=folder)
    assert "not a program (ET_REL)" in refused(folder / "object.o")
    subprocess.run(["objcopy", "--only-keep-debug", folder / "plain", folder / "debug"], check=True)
    assert "debugging symbols only" in refused(folder / "debug")


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_read_or_refused(qemu: Path, tmp_path: Path, seed: int) -> None:
    """Cut anywhere, with bytes changed anywhere, most of them where headers are: never another exception, nor without end."""
    rng = random.Random(seed)
    whole = qemu.read_bytes()
    tables = int.from_bytes(whole[40:48], "little")
    path = tmp_path / "damaged"
    refusals = 0
    for _ in range(30):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.choice(
                (
                    rng.randrange(4, 64),
                    rng.randrange(64, 0x1000),
                    rng.randrange(tables, len(data)),
                    rng.randrange(len(data)),
                )
            )
            data[at] = rng.choice((0, 0xFF, 0x7F, data[at] ^ 1 << rng.randrange(8)))
        if rng.random() < 0.2:
            del data[rng.randrange(4, len(data)) :]
        path.write_bytes(data)
        try:
            abi.abi_text(judge("p", read_imports(str(path)), {}, "4.17.4"))
        except HostError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals


def test_numbers_that_only_a_damaged_file_has(qemu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version needs that point at themselves, 2^32 times."""
    from elftools.elf.elffile import ELFFile

    monkeypatch.setattr(elf, "_LIMIT", 10_000)  # a tenth, which is quicker to reach
    data = bytearray(qemu.read_bytes())
    with qemu.open("rb") as file:
        sections = ELFFile(file)
        index = next(i for i, s in enumerate(sections.iter_sections()) if s["sh_type"] == "SHT_GNU_verneed")
        section = sections.get_section(index)
        offset, header = section["sh_offset"], sections["e_shoff"] + index * sections["e_shentsize"]
    data[header + 44 : header + 48] = b"\xff" * 4  # sh_info, the number of entries
    data[offset + 12 : offset + 16] = bytes(4)  # vn_next
    path = tmp_path / "endless"
    path.write_bytes(data)
    assert ": a damaged ELF file" in refused(path)
    # And each of them with 65535 names, the first of which points at itself: six thousand million together.
    data[offset + 2 : offset + 4] = b"\xff\xff"  # vn_cnt
    names = offset + int.from_bytes(data[offset + 8 : offset + 12], "little")  # vn_aux
    data[names + 12 : names + 16] = bytes(4)  # vna_next
    path.write_bytes(data)
    assert ": a damaged ELF file" in refused(path)


@pytest.mark.parametrize("which", ["SHT_DYNSYM", "SHT_STRTAB", "SHT_GNU_versym"])
def test_a_compressed_table_is_not_expanded(qemu: Path, tmp_path: Path, which: str) -> None:
    """A megabyte of it would be a gigabyte of memory."""
    from elftools.elf.elffile import ELFFile

    data = bytearray(qemu.read_bytes())
    with qemu.open("rb") as file:
        sections = ELFFile(file)
        index = next(i for i, s in enumerate(sections.iter_sections()) if s["sh_type"] == which)
        header = sections["e_shoff"] + index * sections["e_shentsize"]
        entry = max(1, sections.get_section(index)["sh_entsize"])
    table = struct.pack("<IIQQ", 1, 0, 3 << 20, 1) + zlib.compress(bytes(3 << 20))  # ELFCOMPRESS_ZLIB
    table += bytes(-len(table) % entry)
    struct.pack_into("<Q", data, header + 8, 0x802)  # SHF_COMPRESSED, SHF_ALLOC
    struct.pack_into("<QQ", data, header + 24, len(data), len(table))
    path = tmp_path / "compressed"
    path.write_bytes(data + table)
    assert ": a damaged ELF file" in refused(path)


# the command ----------------------------------------------------------------------------------------------------------


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return xlplug("abi", *map(str, words), env={"PATH": os.environ["PATH"], **variables})


def test_the_command(qemu: Path) -> None:
    done = run(qemu)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{qemu}\n\nXen libraries\n")
    done = run(qemu, "--format", "json")
    assert done.returncode == 0
    made = json.loads(done.stdout)
    jsonschema.validate(made, json.loads((ROOT / "docs" / "abi.schema.json").read_text()))
    assert made["unstable"][0] == {
        "function": "xc_domain_iomem_permission", "library": "libxenctrl.so.4.17", "version": "VERS_4.17.0",
        "owner": "xlplug", "text": "VGA memory, VBIOS and OpRegion are granted",
    }  # fmt: skip


def test_names_that_no_terminal_should_see(qemu: Path, tmp_path: Path) -> None:
    """Escape sequences, a second line, bytes that are no UTF-8: with the locale's strictest encoding, too."""
    path = os.fsencode(tmp_path) + b"/q\xff\x1b[2J\nPROBLEM"
    shutil.copy(qemu, path)
    for words in ([], ["--format", "json"]):
        done = run(os.fsdecode(path), *words, PYTHONIOENCODING="utf-8:strict")
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout
        assert "\nPROBLEM" not in done.stdout.replace("\nPROBLEM: ", "")
    assert run(os.fsdecode(path)).stdout.splitlines()[0] == f"{tmp_path}/q\\udcff\\x1b[2J\\nPROBLEM"


def test_the_command_without_what_it_needs(tmp_path: Path) -> None:
    done = run(tmp_path / "none")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    done = run("")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "No such file" in done.stderr, "and not a word of xl's own"
    if not Path("/sys/hypervisor/type").exists():
        done = run()
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "xlplug: this machine does not run on Xen; give the path of a QEMU to look at [XLP101]\n"
    (tmp_path / "elftools.py").write_text("raise ImportError('no')\n")
    done = subprocess.run(
        [sys.executable, "-m", "xlplug", "abi", sys.executable], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "xlplug: this needs pyelftools, which is not installed; install it (Debian: python3-pyelftools) [XLP853]\n"
    )


def test_nothing_else_needs_pyelftools() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, xlplug.commands.cli, xlplug.abi.elf; print('elftools' in sys.modules)"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "False\n", done.stderr


def test_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of all items together."""
    monkeypatch.setattr(elf, "_LIMIT", 5)
    bounded = elf._Bounded()
    assert list(bounded([1, 2])) == [1, 2]
    assert list(bounded([3, 4, 5])) == [3, 4, 5]
    with pytest.raises(ValueError, match="6"):
        list(bounded([6]))


# as the doctor sees it


@pytest.mark.parametrize(
    ("functions", "libraries", "expected"),
    [
        (CTRL[:1], ["libxenctrl.so.4.17"], "built for Xen 4.17"),
        (CTRL[:1], ["libxenctrl.so.4.14"],
         Broken("it needs libxenctrl.so.4.14, but Xen 4.17.7 is running",
                "install a device model that was built for Xen 4.17, or boot Xen 4.14", "XLP854")),
        (MODEL, ["libxendevicemodel.so.1"], "runs on any Xen"),
        ((), [], Unread("it uses no Xen library")),
    ],
)  # fmt: skip
def test_the_doctor_looks_into_a_device_model(
    folder: Path, functions: tuple[str, ...], libraries: list[str], expected: object
) -> None:
    path = program(folder, "model", functions, *libraries)
    assert survey_hook.fits(str(path), (4, 17, "4.17.7")) == expected


def test_the_doctor_sees_that_a_library_is_gone(folder: Path, tmp_path: Path) -> None:
    path = program(folder, "model", CTRL[:1], "libxenctrl.so.4.14").rename(tmp_path / "model")
    assert survey_hook.fits(str(path), (4, 14, "4.14.6")) == Broken(
        "it cannot start: libxenctrl.so.4.14 is not installed", "install it (Debian: libxenmisc4.14)", "XLP854"
    )


def test_the_doctor_does_without_pyelftools(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "elftools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "elftools", None)
    running = (4, 17, "4.17.7")
    assert survey_hook.fits("/usr/bin/true", running) == Unread(
        "this needs pyelftools, which is not installed", "install it (Debian: python3-pyelftools)", "XLP853"
    )
    found = survey_hook.fits(Broken("gone"), running)
    assert isinstance(found, Skipped)
    assert found.what == "device model"
