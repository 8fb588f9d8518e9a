# SPDX-License-Identifier: LGPL-2.1-only
"""What ``xlplug hook install`` has installed below a prefix, and whether it is still the same.

``PREFIX/lib/xlplug/manifest`` has one "sha256  path" a line, which ``sha256sum -c`` can check, and a comment for each folder
that was made.  While an installation is under way it says so before anything else changes: it has the new digests already, and
the ones of before as comments.  So an installation that was killed can be repeated, and removed.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from xlplug.hook.device_model import PRELOAD
from xlplug.model.errors import HostError

__all__ = ["Layout", "Manifest", "read", "text"]

_MADE = "# made "  # a comment to sha256sum
_BEFORE = "# before "


class Layout(NamedTuple):
    """Where the files go below a prefix."""

    prefix: Path

    @property
    def front_end(self) -> Path:
        return self.prefix / "sbin" / "xl"

    @property
    def wrapper(self) -> Path:
        return self.prefix / "lib" / "xlplug" / "device-model"

    @property
    def starter(self) -> Path:
        return self.prefix / "lib" / "xlplug" / "xlplug"

    @property
    def library(self) -> Path:
        return self.prefix / "lib" / "xlplug" / PRELOAD

    @property
    def manifest(self) -> Path:
        return self.prefix / "lib" / "xlplug" / "manifest"

    @property
    def files(self) -> tuple[Path, ...]:
        """All that may be in the manifest."""
        return self.wrapper, self.starter, self.front_end, self.library


class Manifest(NamedTuple):
    """Digests by path, and the folders that were made, outermost first; empty where nothing is installed.

    ``before`` has the digests that the files had before an installation that has not finished.
    """

    files: dict[Path, str]
    folders: tuple[Path, ...] = ()
    before: tuple[tuple[Path, str], ...] = ()

    def changed(self, path: Path) -> bool:
        """Whether the path now holds anything but what was installed there, by the last installation or the one before.

        Raises:
            HostError: it cannot be read.
        """
        digests = {self.files[path], *(digest for each, digest in self.before if each == path)}
        try:
            return path.is_symlink() or digest_of(path.read_bytes()) not in digests
        except IsADirectoryError:
            return True
        except OSError as error:
            raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root", code="XLP605") from error


def read(layout: Layout) -> Manifest:
    """The manifest below a prefix.

    Raises:
        HostError: it cannot be read, or names a file that is not ours.
    """
    try:
        lines = layout.manifest.read_text("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return Manifest({})
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root", code="XLP605") from error
    files, folders, before = {}, [], []
    for line in lines:
        digest, _, name = line.removeprefix(_BEFORE).partition("  ")
        path = Path(line.removeprefix(_MADE)) if line.startswith(_MADE) else Path(name)
        if line.startswith(_MADE) and any(path in each.parents for each in layout.files):
            folders.append(path)
        elif path in layout.files and line.startswith(_BEFORE):
            before.append((path, digest))
        elif path in layout.files:
            files[path] = digest
        else:
            raise HostError(
                f"{layout.manifest} names {name or line!r}, which is not xlplug's",
                hint="remove that line",
                code="XLP610",
            )
    return Manifest(files, tuple(folders), tuple(before))


def text(wanted: dict[Path, bytes], known: Manifest, made: Iterable[Path], *, finished: bool) -> bytes:
    """The manifest with the new files, those of before that stay, and the folders that were made or are about to be."""
    digests = {path: digest_of(data) for path, data in wanted.items()}
    lines = [f"{digest}  {path}" for path, digest in {**known.files, **digests}.items()]
    lines += [f"{_MADE}{folder}" for folder in dict.fromkeys((*known.folders, *made))]
    if not finished:
        before = dict.fromkeys((*known.before, *known.files.items()))
        lines += [f"{_BEFORE}{digest}  {path}" for path, digest in before if digests.get(path, digest) != digest]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
