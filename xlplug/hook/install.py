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
from xlplug.dom0.streams import say
from xlplug.hook import manifest, package_link, place
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
        _require_ours(path, wanted[path], known)
    place.put_in_place(layout, wanted, known)
    for path in wanted:
        say(f"installed {path}")
    _say_if_unused(layout)
    return EXIT_DONE


def _require_ours(path: Path, wanted: bytes, known: Manifest) -> None:
    """That a path may be written over: it is as installed, or, where its manifest is lost, as it would be installed now.

    Raises:
        HostError: it is not.
    """
    if path in known.files:
        if known.changed(path):
            raise HostError(
                f"{path} was changed since it was installed", hint="save your changes, then remove it", code="XLP604"
            )
        return
    try:
        if not path.is_symlink() and path.read_bytes() == wanted:
            return
    except OSError:
        pass
    if is_ours(str(path)):
        raise HostError(f"{path} is not as this xlplug installs it", hint="look at it, then remove it", code="XLP604")
    raise HostError(f"{path} exists and is not xlplug's", hint="give another --prefix", code="XLP604")


def _say_if_unused(layout: Layout) -> None:
    first = first_xl()
    if first != str(layout.front_end):
        why = f"{first} comes first in PATH" if first else "its folder is not in PATH"
        say(f"not yet in use: {why}; put {layout.front_end.parent} at the beginning of PATH")
    else:  # a shell that has run xl before remembers where that was
        say("in shells that are open, run: hash -r")


def uninstall(prefix: str, *, force: bool = False) -> int:
    """Remove the files in the manifest and the folders that we made, if they are empty; 1 if a changed file was left.

    Unless ``force`` is given, guests that need the wrapper to come back from their own reboot keep it.

    Raises:
        Refused: such guests run; nothing was touched.
        HostError: nothing is installed there, or something cannot be removed.
    """
    layout = Layout(Path(os.path.abspath(prefix)))
    known = manifest.read(layout)
    if not known.files and package_link.is_link(layout.front_end):
        package_link.remove(layout.front_end)
        return EXIT_DONE
    if known.files and not force:
        from xlplug.hook.hooked_guests import require_none

        require_none(str(layout.wrapper))
    left_over = place.clear(layout)
    for path in left_over:
        say(f"removed {path}, which an installation that was killed had left")
    if not known.files and not left_over:
        if is_ours(str(layout.front_end)):
            raise HostError(
                f"{layout.front_end} is there, and no list of what was installed",
                hint="run 'xlplug hook install' first, or remove it by hand",
                code="XLP606",
            )
        raise HostError(
            f"xlplug's hook is not installed below {layout.prefix}",
            hint="give the --prefix it was installed with",
            code="XLP606",
        )
    return _remove(layout, known) if known.files else EXIT_DONE


def _remove(layout: Layout, known: Manifest) -> int:
    code = EXIT_DONE
    try:
        for path in known.files:
            if os.path.lexists(path):
                if known.changed(path):
                    say(f"left in place, because it was changed: {path}")
                    code = EXIT_REFUSED
                    continue
                path.unlink()
            say(f"removed {path}")
        for folder in reversed(known.folders):  # while the manifest still says that they are ours
            with contextlib.suppress(OSError):  # it has other files, or the manifest
                folder.rmdir()
        layout.manifest.unlink()
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run it as root", code="XLP605") from error
    for folder in reversed(known.folders):
        with contextlib.suppress(OSError):
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
    known = manifest.read(layout)
    for path in known.files:
        if not os.path.lexists(path):
            found[str(path)] = "missing"
        elif known.before or known.changed(path):
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
