# SPDX-License-Identifier: LGPL-2.1-only
"""Files that are written are there whole, or as they were; what is not a file stays what it is."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.abi.oracle import require
from xlplug.dom0.files import write_whole
from xlplug.model.errors import HostError


def test_a_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    for text in (b"one", b"two"):
        write_whole(str(path), text)
        assert path.read_bytes() == text
    assert os.listdir(tmp_path) == ["map.svg"]


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("there")
    write_whole(str(link), b"new")
    assert link.is_symlink()
    assert (tmp_path / "there").read_bytes() == b"new"


def test_links_of_somebody_else_lead_nowhere(tmp_path: Path) -> None:
    """Whoever owns the folder knows the name of the file to be, and can guess that of its parts."""
    if os.geteuid() != 0:
        require("root", "root, who may write to another's folder")
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.write_bytes(b"old")
    theirs.mkdir()
    path = theirs / "xlplug.prom"
    part = theirs / f"xlplug.prom.{os.getpid()}"
    for link in (path, part):
        link.symlink_to(mine)
        os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(HostError, match=r"xlplug.prom is a link that somebody else has made; give the path itself"):
        write_whole(str(path), b"new")
    path.unlink()
    write_whole(str(path), b"new")
    assert (path.read_bytes(), mine.read_bytes(), os.listdir(theirs)) == (b"new", b"old", ["xlplug.prom"])


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    """Root, who may replace /dev/null, must not."""
    if os.geteuid() != 0:
        require("root", "root, who may make a device")
    null = tmp_path / "null"
    os.mknod(null, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    write_whole(str(null), b"gone")
    assert stat.S_ISCHR(os.stat(null).st_mode)
    assert os.listdir(tmp_path) == ["null"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(str(pipe), b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_standard_output_is_written_to_also_where_it_is_a_pipe() -> None:
    code = "from xlplug.dom0.files import write_whole; write_whole('/dev/stdout', b'through')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"through"


def test_what_is_in_the_file_that_is_standard_output_stays(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before, ")
    code = "from xlplug.dom0.files import write_whole; write_whole('/dev/stdout', b'new'); print(', after')"
    with log.open("a") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert log.read_text() == "before, new, after\n"


def test_what_has_become_a_link_after_the_look_is_replaced_and_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, path = tmp_path / "target", tmp_path / "path"
    target.write_bytes(b"root's")
    path.symlink_to(target)
    monkeypatch.setattr(os.path, "islink", lambda _: False)
    write_whole(str(path), b"new")
    assert (target.read_bytes(), path.read_bytes()) == (b"root's", b"new")
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(HostError, match="symbolic links"):
        write_whole(str(path), b"new")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(HostError, match="File too large; give a path that can be written"):
            write_whole(str(path), bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["map.svg"]


@pytest.mark.parametrize("name", ["absent/file", "."])
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match=r"give a path that can be written \[XLP820\]"):
        write_whole(f"{tmp_path}/{name}", b"x")
