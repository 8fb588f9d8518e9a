# SPDX-License-Identifier: LGPL-2.1-only
"""Writes the sdist and the wheel of the folder that it is in: ``python3 packaging/dist.py FOLDER``.

setuptools makes both.  A wheel is the same every time by SOURCE_DATE_EPOCH; an sdist has the time and the user of its
making in it, so it is packed again.
"""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path

from setuptools import build_meta

ROOT = Path(__file__).resolve().parents[1]


def main(folder: str) -> int:
    """Build both into ``folder``."""
    out = Path(folder).resolve()
    os.chdir(ROOT)
    repack(out / build_meta.build_sdist(str(out)), int(os.environ["SOURCE_DATE_EPOCH"]))
    build_meta.build_wheel(str(out))
    return 0


def repack(sdist: Path, epoch: int) -> None:
    """The same files, of that time, nobody's, in the order of their names."""
    packed = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda m: m.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "root", "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    with sdist.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=epoch) as zipped:
        zipped.write(packed.getvalue())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
