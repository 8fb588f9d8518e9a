# SPDX-License-Identifier: LGPL-2.1-only
"""Putting the hook's files in place, so that it can be repeated and removed wherever it was killed.

The manifest comes first and says what is about to be there.  What is not in it yet has a name of its own (``.xlplug-new``), also
the folders around the manifest where they were missing.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from xlplug.hook import manifest
from xlplug.hook.manifest import Layout, Manifest
from xlplug.model.errors import HostError

__all__ = ["clear", "put_in_place"]

_NEW = ".xlplug-new"


def put_in_place(layout: Layout, wanted: dict[Path, bytes], known: Manifest) -> None:
    """Write every file and the manifest, or leave everything as it was.

    All new files are written before the first one is renamed, so that a full disk leaves an older version intact.

    Raises:
        HostError: something cannot be written.
    """
    missing = tuple(dict.fromkeys(folder for path in (layout.manifest, *wanted) for folder in _missing(path.parent)))
    before = layout.manifest.read_bytes() if known.files else None
    placed: list[Path] = []
    try:
        _begin(layout, manifest.text(wanted, known, missing, finished=False))
        for folder in missing:
            _make(folder)
        finished = manifest.text(wanted, known, missing, finished=True)
        everything = {**wanted, layout.manifest: finished}  # the manifest comes last
        for path, data in everything.items():
            _write(_beside(path), data, 0o644 if path in (layout.library, layout.manifest) else 0o755)
        for path in everything:
            placed.append(path)
            _beside(path).replace(path)
    except OSError as error:
        _undo(layout, before, missing, placed)
        denied = isinstance(error, PermissionError) and os.geteuid() != 0
        raise HostError(
            f"{error.filename or layout.prefix}: {error.strerror}",
            hint="run it as root" if denied else "give a --prefix that can be written",
            code="XLP605",
        ) from error


def clear(layout: Layout) -> list[Path]:
    """Remove what has been left under a name of ours beside the files; the paths that were removed."""
    removed = []
    for path in (*map(_beside, layout.files), _beside(layout.manifest), *_unfinished(layout)):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
            removed.append(path)
    return removed


def _begin(layout: Layout, text: bytes) -> None:
    """Put the manifest there, with the folders around it where they are missing, by one rename."""
    missing = _missing(layout.manifest.parent)
    if not missing:
        _write(_beside(layout.manifest), text, 0o644)
        _beside(layout.manifest).replace(layout.manifest)
        return
    top = missing[0]
    path = _beside(top) / layout.manifest.relative_to(top)
    for folder in (_beside(top), *(_beside(top) / each.relative_to(top) for each in missing[1:])):
        _make(folder)
    _write(path, text, 0o644)
    _beside(top).replace(top)


def _unfinished(layout: Layout) -> Iterator[Path]:
    """The manifest and the folders that `_begin` makes under another name, innermost first."""
    for top in layout.manifest.parents[:-1]:
        inside = layout.manifest.relative_to(top)
        yield from (_beside(top) / each for each in (inside, *inside.parents))


def _undo(layout: Layout, before: bytes | None, missing: tuple[Path, ...], placed: list[Path]) -> None:
    """Leave what was there.  ``before`` is the manifest of an older version; once one of its files is replaced, both count."""
    if before is not None:
        with contextlib.suppress(OSError):
            if not placed and layout.manifest.read_bytes() != before:
                _begin(layout, before)
        clear(layout)
        return
    clear(layout)
    for path in (*placed, layout.manifest):
        with contextlib.suppress(OSError):
            path.unlink()
    for folder in reversed(missing):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _missing(folder: Path) -> tuple[Path, ...]:
    """The folder and those around it that are not there, outermost first."""
    found: list[Path] = []
    while not folder.exists():
        found.insert(0, folder)
        folder = folder.parent
    return tuple(found)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}{_NEW}")


def _make(folder: Path) -> None:
    """A folder that all may enter, with any umask."""
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)


def _write(path: Path, data: bytes, mode: int) -> None:
    """A new file of that mode, with any umask; at no time may anybody else write to it, who could keep it open."""
    path.unlink(missing_ok=True)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
