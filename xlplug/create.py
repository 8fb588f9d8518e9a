# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug create`` and ``xlplug restore``: what xl does, with the grants arranged.

A domain that needs nothing of us gets the real xl at once, with its command line unchanged.  Otherwise everything that can
be refused is refused before anything is created, and xl is started with our wrapper as device model, which makes the
grants when the domain exists (see hook.py).
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from xlplug import handover
from xlplug.devmodel import default_path, executable, is_ours
from xlplug.domcfg import DomainConfig
from xlplug.errors import ConfigError, HostError, Refused
from xlplug.handover import Handover
from xlplug.savefile import config_in
from xlplug.sources import parse, read_as_xl
from xlplug.xlcmd import parse_create, parse_restore

__all__ = ["REAL_XL", "WRAPPER", "create", "real_xl", "restore", "wrapper"]

#: Set by the front end: the xl that it stands before, the options before the subcommand, and the wrapper beside it.
REAL_XL, XL_OPTIONS, WRAPPER = "XLPLUG_XL", "XLPLUG_XL_OPTIONS", "XLPLUG_DEVICE_MODEL"
WRAPPERS = ("/usr/local/lib/xlplug/device-model", "/usr/lib/xlplug/device-model")


def create(words: Sequence[str]) -> int:
    """``xl create`` with these words.

    Raises:
        Refused, ConfigError, HostError: nothing has been created.
    """
    words = list(words)
    asked = parse_create(words)
    data = None if asked is None or asked.dry_run else read_as_xl(asked.path)
    if asked is None or data is None:
        _become_xl("create", words)
    try:
        config = parse(data, asked.path, asked.extra)
    except ConfigError:
        _let_xl_reject(words)
        raise
    if not config.wants_legacy:
        _become_xl("create", words)
    program = wrapper()
    _preflight(config)
    _hand_over(Handover(data, asked.path, asked.extra, config.device_model_override or ""))
    _become_xl("create", [*words, *_override(program, config)])


def restore(words: Sequence[str]) -> int:
    """``xl restore`` with these words.

    Raises:
        Refused, ConfigError, HostError: nothing has been created.
    """
    words = list(words)
    asked = parse_restore(words)
    if asked is None:
        _become_xl("restore", words)
    data = config_in(asked.checkpoint) if asked.config is None else read_as_xl(asked.config)
    if data is None:
        _become_xl("restore", words)
    path = asked.config or asked.checkpoint
    config = parse(data, path)
    if not config.wants_legacy:
        _become_xl("restore", words)
    program = wrapper()
    _preflight(config)
    override = config.device_model_override or ""
    if asked.config is None:
        if not is_ours(override):
            raise ConfigError(
                "the saved domain was not created through xlplug", path=path, hint="run: xl restore CONFIG FILE"
            )
        _hand_over(Handover(data, path))
        _become_xl("restore", words)
    _hand_over(Handover(data, path, (), override))
    # xl restore takes no k=v words, so it gets the file with ours at its end, from a descriptor.
    text = "".join(f"\n{line}" for line in _override(program, config))
    fd = os.memfd_create("xlplug-config", 0)
    os.write(fd, data + text.encode() + b"\n")
    words[words.index(asked.config)] = f"/proc/self/fd/{fd}"
    _become_xl("restore", words)


def real_xl() -> str:
    """The xl that our front end stands before.

    Raises:
        HostError: there is none in PATH.
    """
    given = os.environ.get(REAL_XL)
    folders = os.environ.get("PATH", os.defpath).split(":")
    for path in [given] if given else [f"{folder or '.'}/xl" for folder in folders]:
        if os.access(path, os.X_OK) and not os.path.isdir(path) and not is_ours(path):
            return path
    raise HostError(
        f"{given} is not xl" if given else "no xl in PATH", hint="install it (Debian: xen-utils), or correct PATH"
    )


def wrapper() -> str:
    """The installed device model wrapper.

    Raises:
        HostError: there is none.
    """
    given = os.environ.get(WRAPPER)
    for path in [given] if given else WRAPPERS:
        if os.access(path, os.X_OK) and is_ours(path):
            return path
    where = given or " or ".join(WRAPPERS)
    raise HostError(f"there is no device model wrapper at {where}", hint="run 'xlplug hook install'")


def _become_xl(subcommand: str, words: Sequence[str]) -> NoReturn:
    path = real_xl()
    options = os.environ.pop(XL_OPTIONS, "").split()
    for name in (REAL_XL, WRAPPER):
        os.environ.pop(name, None)
    import signal

    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored survives exec
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(path, [path, *options, subcommand, *words])  # noqa: S606 - xl itself, no shell
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="reinstall it (Debian: xen-utils)") from error


def _let_xl_reject(words: Sequence[str]) -> None:
    """Let xl look at a config that we cannot read; when xl rejects it too, its words are all that is said."""
    path = real_xl()
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    arguments = [path, "create", *words, "-n"]
    pid = os.posix_spawn(path, arguments, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    os.close(null)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        sys.exit(code if code > 0 else 128 - code)


def _preflight(config: DomainConfig) -> None:
    """Everything that can be refused, before anything is created."""
    from xlplug import live, session
    from xlplug.plan import build
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.lib import running_version
    from xlplug.xen.store import XenStore

    if not config.stubdom:
        own = config.device_model_override
        executable(own if own and not is_ours(own) else default_path(running_version()[:2]))
    with XenCtrl() as xen, XenStore() as store:
        made = build(config, live.snapshot(xen, store, config), granting=True, attach_later=True)
        for text in made.warnings:
            sys.stderr.write(f"xlplug: warning: {text}\n")
        if made.refusals:
            raise Refused(made.refusals)
        if made.steps:
            session.require_sole_vga(made, xen, xen.held())


def _hand_over(what: Handover) -> None:
    name, value = handover.offer(what)
    os.environ[name] = value


def _override(program: str, config: DomainConfig) -> list[str]:
    """``k=v`` words that make xl start our wrapper, and no other version of the device model than it would have."""
    if any(char in program for char in '"\\\n'):
        raise HostError(f"{program!r} cannot be written in an xl config", hint="install the hook under another prefix")
    return [f'device_model_override="{program}"', f'device_model_version="{config.device_model_version}"']
