# SPDX-License-Identifier: LGPL-2.1-only
"""The configuration at the head of a saved domain."""

import os
import struct
import threading
from pathlib import Path

import pytest

from xlplug.dom0.savefile import HEADER_SIZE, Head, config_in, optional_length, parse_head

MAGIC = b"Xen saved domain, xl format\n \0 \r"
JSON = b'{"c_info":{"type":"hvm"}}\0'


def header(data: bytes, magic: bytes = MAGIC, order: int = 0x01020304, length: int | None = None) -> bytes:
    """As tools/xl/xl_saverestore.c, save_domain_core_writeconfig, writes it."""
    return magic + struct.pack("<IIII", order, 3, 0, len(data) if length is None else length) + data


def optional(config: bytes, size: int | None = None) -> bytes:
    return struct.pack("<I", len(config) if size is None else size) + config


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (header(optional(JSON)) + b"libxl stream", JSON),
        (header(optional(JSON) + b"more optional data"), JSON),
        (header(optional(b'name="g"\n')), b'name="g"\n'),
        (header(optional(b"x" * 1_000_000)), b"x" * 1_000_000),
        (header(optional(b"")), b""),
        # what xl refuses itself
        (b"", None),
        (MAGIC, None),
        (header(b""), None),
        (header(b"abc"), None),
        (header(optional(JSON), magic=b"LinuxGuestRecord".ljust(32)), None),
        (header(optional(JSON), order=0x04030201), None),
        (header(optional(JSON, size=len(JSON) + 1)), None),
        (header(optional(JSON, size=0xFFFFFFFF)), None),
        (header(optional(JSON), length=len(JSON) + 5), None),
        (header(optional(JSON), length=0xFFFFFFFF), None),
    ],
)
def test_config_in(tmp_path: Path, content: bytes, expected: bytes | None) -> None:
    (tmp_path / "save").write_bytes(content)
    assert config_in(str(tmp_path / "save")) == expected


@pytest.mark.parametrize("head", [Head(3, 0, JSON), Head(2, 7, b'name="g"\n', b"more"), Head(0, 0, b"")])
def test_a_head_is_written_as_it_was_read(head: Head) -> None:
    data = bytes(head)
    assert len(data) == HEADER_SIZE + optional_length(data[:HEADER_SIZE])
    assert parse_head(data) == head


def test_a_changed_config_has_its_own_lengths() -> None:
    given = header(optional(JSON) + b"more")
    head = parse_head(given)
    assert head is not None
    assert bytes(head) == given
    assert bytes(head._replace(config=b"{}\0")) == header(optional(b"{}\0") + b"more")


def test_no_file(tmp_path: Path) -> None:
    assert config_in(str(tmp_path / "none")) is None
    assert config_in(str(tmp_path)) is None


def test_nothing_is_taken_out_of_a_pipe() -> None:
    """``xl restore <(ssh host cat save)``: what we read, xl would miss."""
    reading, writing = os.pipe()
    content = header(optional(JSON))
    os.write(writing, content)
    assert config_in(f"/dev/fd/{reading}") is None
    assert os.read(reading, 4096) == content
    os.close(reading)
    os.close(writing)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    thread = threading.Thread(target=config_in, args=(str(tmp_path / "fifo"),), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
