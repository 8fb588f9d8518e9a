# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug hook``: installs the front end of xl and the device model wrapper, reports what would run, and removes them.

Only the files in the manifest (manifest.py) are ever touched, or one link where a distribution's package brings the front
end (package_link.py).  Xen's own files stay as the package manager installed them: nothing is diverted.
"""

import contextlib
import os
import sys
from pathlib import Path

import xlplug
from xlplug.hook import manifest, package_link
from xlplug.hook.create import wrapper
from xlplug.hook.device_model import PRELOAD, is_ours
from xlplug.hook.manifest import Layout, Manifest
from xlplug.model.errors import EXIT_DONE, EXIT_REFUSED, HostError

__all__ = ["first_xl", "install", "installed", "prefix_of", "program_of", "uninstall", "wrapper_of"]

_PACKAGE = Path(xlplug.__file__).resolve().parent
_HOOKS = _PACKAGE / "_hooks"  # in a checkout a link to hooks/
_BUILT = _PACKAGE.parent / "build" / PRELOAD  # 'make preload' in a checkout


def install(prefix: str) -> int:
    """Put the files below ``prefix``, or link the package's; also over an older version of ours.

    The library for the device model is one of them if it has been built and the package manager has not installed it.

    Raises:
        HostError: something else is there, or it cannot be written; nothing is left behind.
    """
    layout = Layout(Path(os.path.abspath(prefix)))
    if any(char in str(layout.prefix) for char in '"\\\n'):
        raise HostError(
            f"{str(layout.prefix)!r} cannot be written in an xl config", hint="give another --prefix", code="XLP603"
        )
    known = manifest.read(layout)
    packaged = package_link.front_end_of(sys.argv[0])
    if packaged is not None and not known.files:
        package_link.make(layout.front_end, packaged)
        _say_if_unused(layout)
        return EXIT_DONE
    wanted = {
        layout.wrapper: _script("device-model"),
        layout.starter: _script("xlplug"),
        layout.front_end: _front_end_text(layout),
    }
    with contextlib.suppress(FileNotFoundError):
        if layout.library in known.files or not os.path.lexists(layout.library):
            wanted[layout.library] = _BUILT.read_bytes()
    for path in filter(os.path.lexists, wanted):
        if path not in known.files:
            raise HostError(f"{path} exists and is not xlplug's", hint="give another --prefix", code="XLP604")
        if manifest.changed(path, known.files[path]):
            raise HostError(
                f"{path} was changed since it was installed", hint="save your changes, then remove it", code="XLP604"
            )
    _put_in_place(layout, wanted, known)
    for path in wanted:
        sys.stdout.write(f"installed {path}\n")
    _say_if_unused(layout)
    return EXIT_DONE


def _say_if_unused(layout: Layout) -> None:
    first = first_xl()
    if first != str(layout.front_end):
        sys.stdout.write(
            f"not yet in use: {first or 'no xl'} comes first in PATH; put {layout.front_end.parent} before it\n"
        )
    else:  # a shell that has run xl before remembers where that was
        sys.stdout.write("in shells that are open, run: hash -r\n")


def _put_in_place(layout: Layout, wanted: dict[Path, bytes], known: Manifest) -> None:
    """Write every file and the manifest, or leave everything as it was.

    All new files are written before the first one is renamed, so that a full disk leaves an older version intact.

    Raises:
        HostError: something cannot be written.
    """
    made: list[Path] = []
    parts: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path in (*wanted, layout.manifest):
            _make_folders(path.parent, made)
        for path, data in (*wanted.items(), (layout.manifest, manifest.text(wanted, known, made))):
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
        denied = isinstance(error, PermissionError) and os.geteuid() != 0
        raise HostError(
            f"{error.filename or layout.prefix}: {error.strerror}",
            hint="run it as root" if denied else "give a --prefix that can be written",
            code="XLP605",
        ) from error


def uninstall(prefix: str) -> int:
    """Remove the files in the manifest and the folders that we made, if they are empty; 1 if a changed file was left.

    Raises:
        HostError: nothing is installed there, or something cannot be removed.
    """
    layout = Layout(Path(os.path.abspath(prefix)))
    known = manifest.read(layout)
    if not known.files and package_link.is_link(layout.front_end):
        package_link.remove(layout.front_end)
        return EXIT_DONE
    if not known.files:
        raise HostError(
            f"xlplug's hook is not installed below {layout.prefix}",
            hint="give the --prefix it was installed with",
            code="XLP606",
        )
    code = EXIT_DONE
    try:
        for path, digest in known.files.items():
            if os.path.lexists(path):
                if manifest.changed(path, digest):
                    sys.stdout.write(f"left in place, because it was changed: {path}\n")
                    code = EXIT_REFUSED
                    continue
                path.unlink()
            sys.stdout.write(f"removed {path}\n")
        layout.manifest.unlink()
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root", code="XLP605") from error
    for folder in reversed(known.folders):
        with contextlib.suppress(OSError):  # it has other files
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
        raise HostError(
            f"hooks/{name} is not part of this installation", hint="reinstall xlplug", code="XLP608"
        ) from error


def _script(name: str) -> bytes:
    """A script of hooks/ for the interpreter that is running, with the folders in which it will find the package.

    Raises:
        HostError: the interpreter's path does not fit a script's first line (execve(2): no spaces, 255 bytes).
    """
    first = f"#!{sys.executable} -IS"
    if not sys.executable or len(first.encode()) > 255 or len(first.split()) != 2:
        raise HostError(
            f"{sys.executable!r} cannot start a script", hint="run xlplug with /usr/bin/python3", code="XLP607"
        )
    lines = _template(name).decode().split("\n")
    lines[0] = first
    lines[lines.index("FOLDERS = []")] = f"FOLDERS = {_folders()!r}"
    return "\n".join(lines).encode()


def _folders() -> list[str]:
    """The folders of xlplug and of cffi, the one other package that the hook needs."""
    from importlib.util import find_spec

    spec = find_spec("_cffi_backend")
    found = [str(_PACKAGE.parent)]
    if spec is not None and spec.origin is not None and spec.origin.startswith("/"):
        found.append(os.path.dirname(spec.origin))
    return list(dict.fromkeys(found))


def wrapper_of(front_end: str) -> str:
    """The wrapper that an installed front end uses.

    Raises:
        HostError: there is none.
    """
    path = _set_in(front_end, "wrapper")
    if path is None:
        return wrapper()
    if os.access(path, os.X_OK) and is_ours(path):
        return path
    raise HostError(f"there is no device model wrapper at {path}", hint="run 'xlplug hook install'", code="XLP602")


def program_of(front_end: str) -> str:
    """The xlplug that a front end starts, found in PATH where it has no folder.

    Raises:
        HostError: there is none.
    """
    import shutil

    name = _set_in(front_end, "xlplug") or "xlplug"
    path = shutil.which(name)
    if path is None:
        raise HostError(
            f"{front_end} starts {name}, which is missing", hint="run 'xlplug hook install' again", code="XLP608"
        )
    return path


def _set_in(front_end: str, variable: str) -> str | None:
    """The value that a front end gives to a variable."""
    import shlex

    for line in Path(front_end).read_text("utf-8", "surrogateescape").splitlines():
        if line.startswith(f"{variable}="):
            return shlex.split(line)[0].removeprefix(f"{variable}=")
    return None


def prefix_of(front_end: str) -> str:
    """The prefix that a front end was installed below, if it was installed."""
    return str(Path(front_end).parent.parent)


def installed(prefix: str) -> dict[str, str]:
    """The state of each file in the manifest below ``prefix``: "" if it is intact, "missing", "changed", "not executable".

    Empty if nothing is installed.

    Raises:
        HostError: the manifest or a file cannot be read, or the manifest names a file that is not ours.
    """
    found = {}
    layout = Layout(Path(os.path.abspath(prefix)))
    if package_link.is_link(layout.front_end):
        found[str(layout.front_end)] = "" if is_ours(str(layout.front_end)) else "missing"
    for path, digest in manifest.read(layout).files.items():
        if not os.path.lexists(path):
            found[str(path)] = "missing"
        elif manifest.changed(path, digest):
            found[str(path)] = "changed"
        else:
            found[str(path)] = "" if os.access(path, os.X_OK) else "not executable"
    return found


def _front_end_text(layout: Layout) -> bytes:
    text = _template("xl").decode()
    text = text.replace("\nxlplug=xlplug\n", f"\nxlplug={_quoted(str(layout.starter))}\n")
    text = text.replace("\nwrapper=/usr/lib/xlplug/device-model\n", f"\nwrapper={_quoted(str(layout.wrapper))}\n")
    return text.encode()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


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
