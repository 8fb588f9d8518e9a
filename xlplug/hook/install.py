# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug hook``: puts the front end of xl and the device model wrapper in place, says what would run, and removes them.

Nothing is touched but the files of the manifest, ``PREFIX/lib/xlplug/manifest``: one "sha256  path" a line, as sha256sum
writes and checks it, and a comment for each folder that had to be made; of a distribution's package, one link
(package_link.py).  Xen's own files stay where the package manager knows them, so there is nothing to divert.
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import xlplug
from xlplug.hook import package_link
from xlplug.hook.create import wrapper
from xlplug.hook.device_model import PRELOAD, is_ours
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, HostError

__all__ = ["first_xl", "install", "installed", "prefix_of", "program_of", "uninstall", "wrapper_of"]

_MADE = "# made "  # a comment to sha256sum
_PACKAGE = Path(xlplug.__file__).resolve().parent
_HOOKS = _PACKAGE / "_hooks"  # in a checkout a link to hooks/
_BUILT = _PACKAGE.parent / "build" / PRELOAD  # 'make preload' in a checkout


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
    def library(self) -> Path:
        return self.prefix / "lib" / "xlplug" / PRELOAD

    @property
    def manifest(self) -> Path:
        return self.prefix / "lib" / "xlplug" / "manifest"


class _Manifest(NamedTuple):
    """Digests by path, and the folders that were made, outermost first; empty where nothing is installed."""

    files: dict[Path, str]
    folders: tuple[Path, ...] = ()


def install(prefix: str) -> int:
    """Put the files below ``prefix``, or the package's link; again over an older version of ours.

    The library for the device model is one of them where it has been built and the package manager has not put it there.

    Raises:
        HostError: something else is there, or it cannot be written; nothing is left behind.
    """
    layout = _Layout(Path(os.path.abspath(prefix)))
    if any(char in str(layout.prefix) for char in '"\\\n'):
        raise HostError(f"{str(layout.prefix)!r} cannot be written in an xl config", hint="give another --prefix")
    known = _manifest(layout)
    packaged = package_link.front_end_of(sys.argv[0])
    if packaged is not None and not known.files:
        package_link.make(layout.front_end, packaged)
        _say_if_unused(layout)
        return EXIT_DONE
    wanted = {layout.wrapper: _wrapper_text(), layout.front_end: _front_end_text(layout)}
    with contextlib.suppress(FileNotFoundError):
        if layout.library in known.files or not os.path.lexists(layout.library):
            wanted[layout.library] = _BUILT.read_bytes()
    for path in wanted:
        if not os.path.lexists(path):
            continue
        if path not in known.files:
            raise HostError(f"{path} is there already and not xlplug's", hint="give another --prefix")
        if _changed(path, known.files[path]):
            raise HostError(f"{path} was changed since it was installed", hint="save your changes, then remove it")
    made: list[Path] = []
    parts: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path in (*wanted, layout.manifest):
            _make_folders(path.parent, made)
        kept = {path: digest for path, digest in known.files.items() if path not in wanted}
        lines = [f"{d}  {path}" for path, d in {**{p: _digest(data) for p, data in wanted.items()}, **kept}.items()]
        lines += [f"{_MADE}{folder}" for folder in (*known.folders, *made)]
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        # All is written before anything is replaced: a full disk leaves an older version whole.
        for path, data in (*wanted.items(), (layout.manifest, text)):
            parts[path] = _write_beside(path, data, 0o644 if path in (layout.library, layout.manifest) else 0o755)
        for path in tuple(parts):
            parts[path].replace(path)
            del parts[path]
            placed.append(path)
    except OSError as error:
        for path in (*parts.values(), *(placed if not known.files else ())):
            with contextlib.suppress(OSError):
                path.unlink()
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise HostError(
            f"{error.filename or layout.prefix}: {error.strerror}",
            hint="run it as root, or give a --prefix that can be written",
        ) from error
    for path in wanted:
        sys.stdout.write(f"installed {path}\n")
    _say_if_unused(layout)
    return EXIT_DONE


def _say_if_unused(layout: _Layout) -> None:
    first = first_xl()
    if first != str(layout.front_end):
        sys.stdout.write(
            f"not yet in use: {first or 'no xl'} comes first in PATH; put {layout.front_end.parent} before it\n"
        )


def uninstall(prefix: str) -> int:
    """Remove what the manifest names, and the folders that become empty; 1 when a file had been changed and stays.

    Raises:
        HostError: nothing is installed there, or it cannot be removed.
    """
    layout = _Layout(Path(os.path.abspath(prefix)))
    known = _manifest(layout)
    if not known.files and package_link.is_link(layout.front_end):
        package_link.remove(layout.front_end)
        return EXIT_DONE
    if not known.files:
        raise HostError(
            f"xlplug's hook is not installed below {layout.prefix}", hint="give the --prefix it was installed with"
        )
    code = EXIT_DONE
    try:
        for path, digest in known.files.items():
            if os.path.lexists(path):
                if _changed(path, digest):
                    sys.stdout.write(f"left in place, because it was changed: {path}\n")
                    code = EXIT_REFUSED
                    continue
                path.unlink()
            sys.stdout.write(f"removed {path}\n")
        layout.manifest.unlink()
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root") from error
    for folder in reversed(known.folders):
        with contextlib.suppress(OSError):  # not empty: not ours alone
            folder.rmdir()
    return code


def first_xl() -> str | None:
    """The xl that PATH finds."""
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        path = f"{folder or '.'}/xl"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def _template(name: str) -> bytes:
    try:
        return (_HOOKS / name).read_bytes()
    except OSError as error:
        raise HostError(f"hooks/{name} is not part of this installation", hint="reinstall xlplug") from error


def _wrapper_text() -> bytes:
    """Our wrapper for the interpreter that runs now, which finds the package even where that is not installed.

    Raises:
        HostError: the interpreter's path cannot stand in a first line (execve(2): no spaces, and 255 bytes).
    """
    import site

    first = f"#!{sys.executable} -I"
    if not sys.executable or len(first.encode()) > 255 or len(first.split()) != 2:
        raise HostError(f"{sys.executable!r} cannot start a script", hint="run xlplug with /usr/bin/python3")
    lines = _template("device-model").decode().split("\n")
    lines[0] = first
    if str(_PACKAGE.parent) not in site.getsitepackages():  # a checkout, or the user's own: -I looks in neither
        lines.insert(lines.index("import sys") + 1, f"\nsys.path.insert(0, {str(_PACKAGE.parent)!r})")
    return "\n".join(lines).encode()


def wrapper_of(front_end: str) -> str:
    """The wrapper that an installed front end names.

    Raises:
        HostError: there is none.
    """
    path = _set_in(front_end, "wrapper")
    if path is None:
        return wrapper()
    if os.access(path, os.X_OK) and is_ours(path):
        return path
    raise HostError(f"there is no device model wrapper at {path}", hint="run 'xlplug hook install'")


def program_of(front_end: str) -> str:
    """The xlplug that a front end starts, found in PATH where it has no folder.

    Raises:
        HostError: there is none.
    """
    import shutil

    name = _set_in(front_end, "xlplug") or "xlplug"
    path = shutil.which(name)
    if path is None:
        raise HostError(f"{front_end} starts {name}, which is missing", hint="run 'xlplug hook install' again")
    return path


def _set_in(front_end: str, variable: str) -> str | None:
    """What a front end sets a variable to."""
    import shlex

    for line in Path(front_end).read_text("utf-8", "surrogateescape").splitlines():
        if line.startswith(f"{variable}="):
            return shlex.split(line)[0].removeprefix(f"{variable}=")
    return None


def prefix_of(front_end: str) -> str:
    """The prefix that a front end was installed below, if it was installed."""
    return str(Path(front_end).parent.parent)


def installed(prefix: str) -> dict[str, str]:
    """How each file of the manifest below ``prefix`` is now: "", "missing", "changed" or "not executable".

    Empty where nothing is installed.

    Raises:
        HostError: the manifest or a file cannot be read, or the manifest names what is not ours.
    """
    found = {}
    layout = _Layout(Path(os.path.abspath(prefix)))
    if package_link.is_link(layout.front_end):
        found[str(layout.front_end)] = "" if is_ours(str(layout.front_end)) else "missing"
    for path, digest in _manifest(layout).files.items():
        if not os.path.lexists(path):
            found[str(path)] = "missing"
        elif _changed(path, digest):
            found[str(path)] = "changed"
        else:
            found[str(path)] = "" if os.access(path, os.X_OK) else "not executable"
    return found


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


def _manifest(layout: _Layout) -> _Manifest:
    try:
        lines = layout.manifest.read_text("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return _Manifest({})
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root") from error
    files, folders = {}, []
    ours = (layout.wrapper, layout.front_end, layout.library)
    for line in lines:
        digest, _, name = line.partition("  ")
        path = Path(line.removeprefix(_MADE)) if line.startswith(_MADE) else Path(name)
        if line.startswith(_MADE) and any(path in each.parents for each in ours):
            folders.append(path)
        elif path in ours:
            files[path] = digest
        else:
            raise HostError(f"{layout.manifest} names {name or line!r}, which is not xlplug's", hint="remove that line")
    return _Manifest(files, tuple(folders))


def _changed(path: Path, digest: str) -> bool:
    """Whether something else is at a path where a file with that digest was installed."""
    try:
        return path.is_symlink() or _digest(path.read_bytes()) != digest
    except IsADirectoryError:
        return True
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root") from error


def _make_folders(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o755)
        made.append(each)


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    """A new file in the same folder, whole or not at all, to be renamed."""
    part = path.with_name(f"{path.name}.xlplug-new")
    try:
        part.write_bytes(data)
        part.chmod(mode)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
