# SPDX-License-Identifier: LGPL-2.1-only
"""What is said of a libxenctrl that does not serve the running Xen: one line, both versions, what to install."""

from pathlib import Path

import pytest

from xlplug.xen import mismatch


def library(path: Path, *sonames: str) -> Path:
    """A file with these sonames in its string table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\0" + b"".join(f"xc_version\0{name}\0".encode() for name in sonames) + b"libc.so.6\0")
    return path


def maps(folder: Path, *paths: Path) -> str:
    """What /proc/self/maps says when these are loaded, each in two pieces."""
    lines = [
        "55d0c0a00000-55d0c0a01000 r--p 00000000 fe:00 131 /usr/bin/python3.11",
        "7ffd8a5f2000-7ffd8a613000 rw-p 0 00:00 0 [stack]",
    ]
    for path in paths:
        lines += [f"7f1c5a200000-7f1c5a206000 {rights} 00000000 fe:00 4711   {path}" for rights in ("r--p", "r-xp")]
    file = folder / "maps"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ([], "is not installed; install it (Debian: libxenmisc4.20)"),
        (["libxenctrl.so.4.20", "libxenctrl.so.4.17.0", "libxenctrl.so", "xlibxenctrl.so.4.16"], "is not installed; install"),
        (["libxenctrl.so.4.17"], "only Xen 4.17's is; install it (Debian: libxenmisc4.20), or boot Xen 4.17 [XLP104]"),
        (["libxenctrl.so.4.17", "libxenctrl.so.4.9"], "only Xen 4.9 and 4.17's is; "),
    ],
)  # fmt: skip
def test_absent(tmp_path: Path, there: list[str], says: str) -> None:
    for name in there:
        library(tmp_path / "b" / name)
    told = str(mismatch.absent("4.20", (str(tmp_path / "a"), str(tmp_path / "b"))))
    assert told.startswith("the running Xen's libxenctrl.so.4.20 is not installed")
    assert says in told


def test_ld_library_path_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path / "libxenctrl.so.4.3")
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{tmp_path}")
    assert "4.3" in str(mismatch.absent("4.20"))


def test_a_library_by_another_name_is_told_by_its_own(tmp_path: Path) -> None:
    """What an administrator does who links libxenctrl.so.4.20 to the one that is there."""
    path = library(tmp_path / "some where" / "libxenctrl.so.4.17.0", "libxenctrl.so.4.17")
    assert str(mismatch.foreign("4.20", "4.20.4", maps(tmp_path, path))) == (
        f"{path} is Xen 4.17's library, and the running Xen 4.20.4 refuses it; "
        "install the real libxenctrl.so.4.20 (Debian: libxenmisc4.20), or boot Xen 4.17 [XLP105]"
    )


SAME = (
    "the installed libxenctrl.so.4.20 is of another build than the running Xen 4.20.4, which refuses it; "
    "install libxenmisc4.20 from the same build as the running Xen, or reboot into the library's [XLP105]"
)


@pytest.mark.parametrize("sonames", [(), ("libxenctrl.so.4.20",), ("libxenctrl.so.4.17", "libxenctrl.so.4.18")])
def test_a_library_whose_name_tells_nothing(tmp_path: Path, sonames: tuple[str, ...]) -> None:
    path = library(tmp_path / "libxenctrl.so.4.20", *sonames)
    assert str(mismatch.foreign("4.20", "4.20.4", maps(tmp_path, path))) == SAME


def test_a_file_that_cannot_be_told(tmp_path: Path) -> None:
    one, two = (library(tmp_path / n / "libxenctrl.so.4.17", "libxenctrl.so.4.17") for n in "ab")
    for told in (
        maps(tmp_path),
        maps(tmp_path, one, two),
        maps(tmp_path, tmp_path / "libxenctrl.so.4.gone"),
        "/absent",
    ):
        assert str(mismatch.foreign("4.20", "4.20.4", told)) == SAME


def test_a_xen_after_our_time() -> None:
    assert str(mismatch.incomplete("4.31", "xc_domain_pause")) == (
        "xc_domain_pause of the running Xen's libxenctrl.so.4.31 is not as this xlplug knows it; "
        "use an xlplug that is newer than this Xen [XLP105]"
    )
