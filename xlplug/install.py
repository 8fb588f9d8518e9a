# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug hook``: puts the front end of xl and the device model wrapper in place, says what would run, and removes them.

Nothing is touched but the files of the manifest, ``PREFIX/lib/xlplug/manifest``: one "sha256  path" a line, as sha256sum
writes and checks it.  Xen's own files stay where the package manager knows them, so there is nothing to divert.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import xlplug
from xlplug.create import real_xl, wrapper
from xlplug.devmodel import is_ours, real
from xlplug.errors import EXIT_DONE, EXIT_REFUSED, HostError, XlplugError

__all__ = ["install", "status", "uninstall"]

_PACKAGE = Path(xlplug.__file__).resolve().parent
_FOLDERS = (_PACKAGE / "_hooks", _PACKAGE.parent / "hooks")  # an installed package's, a checkout's


class _Layout(NamedTuple):
    """Where the files go below a prefix."""

    prefix: Path

    @property
    def front_end(self) -> Path:
        return self.prefix / "sbin" / "xl"

    @property
    def wrapper(self) -> Path:
        return self.prefix / "lib" / "xlplug" / "device-model"

    @property
    def manifest(self) -> Path:
        return self.prefix / "lib" / "xlplug" / "manifest"


def install(prefix: str) -> int:
    """Put both files below ``prefix``; again over an older version of ours.

    Raises:
        HostError: something else is there, or it cannot be written; nothing is left behind.
    """
    layout = _Layout(Path(os.path.abspath(prefix)))
    known = _manifest(layout)
    wanted = {layout.wrapper: _wrapper_text(), layout.front_end: _front_end_text(layout)}
    for path in wanted:
        if os.path.lexists(path) and (path not in known or not is_ours(str(path))):
            raise HostError(f"{path} is there already and not xlplug's", hint="give another --prefix")
        if path in known and _digest(path.read_bytes()) != known[path]:
            raise HostError(f"{path} was changed since it was installed", hint="save your changes, then remove it")
    lines = "".join(f"{_digest(data)}  {path}\n" for path, data in wanted.items())
    written: list[Path] = []
    made: list[Path] = []
    try:
        for path in (*wanted, layout.manifest):
            _make_folders(path.parent, made)
        for path, data in wanted.items():
            _replace(path, data, 0o755)
            written.append(path)
        _replace(layout.manifest, lines.encode(), 0o644)
    except OSError as error:
        if not known:
            for path in written:
                path.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()
        raise HostError(
            f"{error.filename}: {error.strerror}", hint="run it as root, or give a --prefix that can be written"
        ) from error
    for path in wanted:
        sys.stdout.write(f"installed {path}\n")
    first = _first_xl()
    if first != str(layout.front_end):
        sys.stdout.write(
            f"not yet in use: {first or 'no xl'} comes first in PATH; put {layout.front_end.parent} before it\n"
        )
    return EXIT_DONE


def uninstall(prefix: str) -> int:
    """Remove what the manifest names, and the folders that become empty; 1 when a file had been changed and stays.

    Raises:
        HostError: nothing is installed there, or it cannot be removed.
    """
    layout = _Layout(Path(os.path.abspath(prefix)))
    known = _manifest(layout)
    if not known:
        raise HostError(
            f"xlplug's hook is not installed below {layout.prefix}", hint="give the --prefix it was installed with"
        )
    code = EXIT_DONE
    try:
        for path, digest in known.items():
            if path.exists() and _digest(path.read_bytes()) != digest:
                sys.stdout.write(f"left in place, because it was changed: {path}\n")
                code = EXIT_REFUSED
                continue
            path.unlink(missing_ok=True)
            sys.stdout.write(f"removed {path}\n")
        layout.manifest.unlink()
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root") from error
    for folder in (layout.wrapper.parent, layout.front_end.parent, layout.wrapper.parent.parent):
        try:
            if not os.path.samefile(folder, layout.prefix):
                folder.rmdir()
        except OSError:
            continue  # not empty: not ours alone
    return code


def status(config: str | None, extra: tuple[str, ...]) -> int:
    """What ``xl create`` would run here; with a config, what it would run and grant for that; 1 when nothing hooks it."""
    first = _first_xl()
    hooked = first is not None and is_ours(first)
    sys.stdout.write(f"xl:           {first or 'none in PATH'}{' (front end of xlplug)' if hooked else ''}\n")
    for label, find in (("real xl:     ", real_xl), ("wrapper:     ", wrapper), ("device model:", lambda: real(""))):
        try:
            sys.stdout.write(f"{label} {find()}\n")
        except XlplugError as error:
            sys.stdout.write(f"{label} {error}\n")
    if not hooked:
        sys.stdout.write(
            "'xl create' is not hooked; run 'xlplug hook install' and see that its folder comes first in PATH\n"
        )
    if config is not None:
        _status_of(config, extra)
    return EXIT_DONE if hooked else EXIT_REFUSED


def _status_of(path: str, extra: tuple[str, ...]) -> None:
    from xlplug.sources import parse, read_as_xl

    data = read_as_xl(path)
    if data is None:
        raise HostError(f"{path} cannot be read", hint="give the path of an xl config")
    config = parse(data, path, extra)
    if not config.wants_legacy:
        sys.stdout.write(f"{path}: needs no legacy range: the real xl would run unchanged\n")
        return
    own = config.device_model_override
    then = f", then the config's own {own}" if own and not is_ours(own) else ""
    sys.stdout.write(f"{path}: the wrapper would run{then}; what it would grant: xlplug plan {path}\n")


def _first_xl() -> str | None:
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        path = f"{folder or '.'}/xl"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def _template(name: str) -> bytes:
    for folder in _FOLDERS:
        try:
            return (folder / name).read_bytes()
        except OSError:
            continue
    raise HostError(f"hooks/{name} is not part of this installation", hint="reinstall xlplug")


def _wrapper_text() -> bytes:
    """Our wrapper for the interpreter that runs now, which finds the package even where that is not installed."""
    lines = _template("device-model").decode().split("\n")
    lines[0] = f"#!{sys.executable} -I"
    if _PACKAGE.parent.name not in ("site-packages", "dist-packages"):
        lines.insert(lines.index("import sys") + 1, f"\nsys.path.insert(0, {str(_PACKAGE.parent)!r})")
    return "\n".join(lines).encode()


def _front_end_text(layout: _Layout) -> bytes:
    program = os.path.abspath(sys.argv[0])
    if os.path.basename(program) != "xlplug" or not os.access(program, os.X_OK):
        program = "xlplug"  # started as a module: found in PATH, as the hook's users do
    text = _template("xl").decode()
    text = text.replace("\nxlplug=xlplug\n", f"\nxlplug={_quoted(program)}\n")
    text = text.replace("\nwrapper=/usr/lib/xlplug/device-model\n", f"\nwrapper={_quoted(str(layout.wrapper))}\n")
    return text.encode()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _manifest(layout: _Layout) -> dict[Path, str]:
    """Digests by path; empty where nothing is installed."""
    try:
        lines = layout.manifest.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root") from error
    found = {}
    for line in lines:
        digest, _, path = line.partition("  ")
        if Path(path) not in (layout.wrapper, layout.front_end):
            raise HostError(f"{layout.manifest} names {path or line!r}, which is not xlplug's", hint="remove that line")
        found[Path(path)] = digest
    return found


def _make_folders(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o755)
        made.append(each)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Write whole or not at all."""
    part = path.with_name(f"{path.name}.xlplug-new")
    try:
        part.write_bytes(data)
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
