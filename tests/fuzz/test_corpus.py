# SPDX-License-Identifier: LGPL-2.1-only
"""Every seed through its target, without a fuzzer: what was found before is among them; and what once took too long."""

import struct
import time
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from xlplug.config.delegated import Spec, place
from xlplug.model.bdf import Bdf
from xlplug.model.errors import ConfigError

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(".")  # one of them changes it
    seeds = sorted((CORPUS / name).iterdir())
    assert seeds
    for seed in seeds:
        TARGETS[name](seed.read_bytes())
    TARGETS[name](b"")


def test_every_folder_has_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert {file.name for file in (CORPUS.parent / "dictionaries").iterdir()} <= set(TARGETS)


def test_many_delegated_functions() -> None:
    many = [Spec(Bdf(n >> 16, n >> 8 & 0xFF, n >> 3 & 0x1F, n & 7)) for n in range(30_000)]
    began = time.process_time()
    with pytest.raises(ConfigError, match="no free slot"):
        place(many, ())
    assert time.process_time() - began < 3


def program(symbols: int, longest: int) -> bytes:
    """An ELF file whose symbols are all undefined, and all have the same long name."""
    names = b"\0" + b"a" * longest + b"\0"
    sections = b"\0.s\0"
    table = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 0, 0, 0) * symbols
    data = [b"", names, table, struct.pack("<QQ", 0, 0), sections]
    kinds = [(0, 0, 0), (3, 0, 0), (11, 1, 24), (6, 1, 16), (3, 0, 0)]  # null, strtab, dynsym, dynamic, strtab
    at, headers = 64, b""
    for (kind, link, size), content in zip(kinds, data, strict=True):
        headers += struct.pack("<IIQQQQIIQQ", 1, kind, 0, 0, at, len(content), link, 0, 1, size)
        at += len(content)
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, 5, 4)
    return head + b"".join(data) + headers


def test_an_elf_file_whose_names_are_all_as_long_as_the_file(tmp_path: Path) -> None:
    """10,000 names of 100 KiB would be 1 GiB."""
    from xlplug.abi.elf import ProgramError, read_imports

    path = tmp_path / "program"
    path.write_bytes(program(3, 10))
    assert [symbol.name for symbol in read_imports(str(path)).symbols] == ["a" * 10] * 3
    path.write_bytes(program(10_000, 100 << 10))
    began = time.process_time()
    with pytest.raises(ProgramError, match="damaged"):
        read_imports(str(path))
    assert time.process_time() - began < 5
