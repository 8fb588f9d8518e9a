# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug create``, ``restore`` and ``migrate-receive``: run xl, with our wrapper in place of the device model.

For a domain that needs no grants we become the real xl at once, with its command line unchanged.  For any other, everything
that can be refused is refused now, before anything is created.  Then xl runs with our wrapper (wrapper.py) as the device model,
and the wrapper makes the grants when the domain exists.
"""

import fcntl
import os
import stat
import sys
from collections.abc import Sequence
from typing import NoReturn

from xlplug.config.domain import DomainConfig, not_for_us
from xlplug.config.xl_command_line import is_receive, parse_create, parse_restore
from xlplug.dom0 import handover, streams
from xlplug.dom0.find_config import parse, read_as_xl
from xlplug.dom0.frozen import freeze
from xlplug.dom0.handover import Handover
from xlplug.hook.become import become, first_environment
from xlplug.hook.device_model import is_ours, preload_library, real
from xlplug.hook.override import overridden, override_words
from xlplug.model.errors import ConfigError, HostError, Refused, XlplugError
from xlplug.model.occasion import CREATING, NO_LIBRARY, RESTORING, Occasion

TYPE_CHECKING = False  # typing's, without importing typing for it
if TYPE_CHECKING:
    from xlplug.model.host import HostSnapshot
    from xlplug.plan import Plan

__all__ = [
    "REAL_XL",
    "WRAPPER",
    "create",
    "device_model",
    "found_wrapper",
    "occasion",
    "real_xl",
    "receive",
    "rehearse",
    "restore",
    "wrapper",
]

#: Set by the front end: the xl that it stands before, the options before the subcommand, and the wrapper beside it.
REAL_XL, XL_OPTIONS, WRAPPER = "XLPLUG_XL", "XLPLUG_XL_OPTIONS", "XLPLUG_DEVICE_MODEL"
_SENT = "the incoming domain"  # in place of a path
_WRAPPER_ENDS = "/xlplug/device-model"
WRAPPERS = tuple(f"{prefix}/lib{_WRAPPER_ENDS}" for prefix in ("/usr/local", "/usr"))


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
    _preflight(config, asked.path, occasion(config, program))
    override = config.device_model_override or ""
    offered = handover.offer(Handover(data, asked.path, asked.extra, override, freeze(config)))
    _become_xl("create", [*words, *override_words(program, config)], offered)


def restore(words: Sequence[str]) -> int:
    """``xl restore`` with these words.

    Raises:
        Refused, ConfigError, HostError: nothing has been created.
    """
    words = list(words)
    asked = parse_restore(words)
    if asked is None:
        _become_xl("restore", words)
    pipe = _open_pipe(asked.checkpoint) if asked.config is None else None
    if pipe is not None:
        reserved = handover.reserve()
        fd = _incoming(pipe, reserved)
        fd = fcntl.fcntl(fd, fcntl.F_DUPFD, reserved)  # survives exec
        words[-1] = f"/proc/self/fd/{fd}"
        _become_xl("restore", words, handover.naming(reserved, fd))
    from xlplug.dom0.savefile import config_in

    data = config_in(asked.checkpoint) if asked.config is None else read_as_xl(asked.config)
    if data is None:
        _become_xl("restore", words)
    path = asked.config or asked.checkpoint
    config = parse(data, path)
    override = config.device_model_override or ""
    if asked.config is None and is_ours(override) != config.wants_legacy:
        # It was created without the hook, or hooked for a setting that libxl does not save (xlplug_map_legacy, xlplug_preload).
        raise ConfigError(
            "the saved domain does not say what to grant", path=path, hint="run: xl restore CONFIG FILE", code="XLP211"
        )
    if not config.wants_legacy:
        _become_xl("restore", words)
    program = wrapper()
    _preflight(config, path, CREATING.without_ram(RESTORING))
    if asked.config is None:
        _become_xl("restore", words, handover.offer(Handover(data, path, parsed=freeze(config))))
    # xl restore takes no k=v words, so it reads the file, with ours appended, from a descriptor.
    fd = handover.keep(overridden(data, program, config))
    words[words.index(asked.config)] = f"/proc/self/fd/{fd}"
    _become_xl("restore", words, handover.offer(Handover(data, path, (), override, freeze(config)), fd))


def receive(words: Sequence[str]) -> int:
    """``xl migrate-receive`` with these words; the domain arrives on standard input.

    Raises:
        HostError: nothing has been received.
    """
    words = list(words)
    real_xl()  # raises if there is none, before a process of ours waits for the sender
    if not is_receive(words) or os.isatty(0):
        _become_xl("migrate-receive", words)
    reserved = handover.reserve()
    os.dup2(_incoming(0, reserved), 0)
    _become_xl("migrate-receive", words, handover.naming(reserved))


def _open_pipe(path: str) -> int | None:
    """A pipe, opened as xl opens it, waiting for its writer; None for anything else, and where xl would fail to open it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC) if stat.S_ISFIFO(os.stat(path).st_mode) else None
    except OSError:
        return None


def _incoming(source: int, reserved: int) -> int:
    """What xl reads in place of ``source``.  ``reserved`` holds the handover by the time that xl has read the configuration."""
    from xlplug.hook.relay import relay

    return relay(source, lambda data: _arrived(data, reserved), reserved)


def _arrived(data: bytes, reserved: int) -> bytes | None:
    """Look at the head of an incoming domain, as `create` looks at a config; return what xl shall read instead.

    None if xl shall read nothing.  The sending host may have no hook, or its wrapper at another path: the configuration is
    given this host's wrapper.
    """
    from xlplug.dom0.savefile import parse_head

    head = parse_head(data)
    if head is None:
        return data
    try:
        config = parse(head.config, _SENT)
    except ConfigError:
        return data  # xl will reject it
    override = config.device_model_override or ""
    hooked = is_ours(override) or override.endswith(_WRAPPER_ENDS)
    if not hooked and not config.wants_legacy:
        return data
    own = "" if hooked else override
    try:
        program = wrapper()
        if config.wants_legacy:
            _preflight(config._replace(device_model_override=own or None), _SENT, CREATING.without_ram(RESTORING))
        handover.fill(reserved, Handover(head.config, _SENT, (), own, freeze(config)))
        return data if override == program else bytes(head._replace(config=overridden(head.config, program, config)))
    except XlplugError as error:
        streams.complain(str(error))
        return None


def real_xl() -> str:
    """The xl that our front end found, or the first in PATH that is not a front end of ours.

    The front end takes what comes behind it in PATH unread, and that may be another front end.

    Raises:
        HostError: there is none.
    """
    given = os.environ.get(REAL_XL)
    folders = os.environ.get("PATH", os.defpath).split(":")
    in_path = [f"{folder or '.'}/xl" for folder in folders]
    for path in [given] if given and not is_ours(given) else in_path:
        if os.access(path, os.X_OK) and not os.path.isdir(path) and not is_ours(path):
            return path
    raise HostError(
        f"{given} is not xl" if given and not is_ours(given) else "no xl in PATH",
        hint="install it (Debian: xen-system-amd64), or correct PATH",
        code="XLP601",
    )


def wrapper() -> str:
    """The installed device model wrapper.

    Raises:
        HostError: there is none.
    """
    found = found_wrapper()
    if found is not None:
        return found
    where = os.environ.get(WRAPPER) or " or ".join(WRAPPERS)
    raise HostError(f"there is no device model wrapper at {where}", hint="run 'xlplug hook install'", code="XLP602")


def found_wrapper() -> str | None:
    """The installed device model wrapper, if there is one."""
    given = os.environ.get(WRAPPER)
    return next((path for path in ([given] if given else WRAPPERS) if os.access(path, os.X_OK) and is_ours(path)), None)


def occasion(config: DomainConfig, program: str) -> Occasion:
    """`CREATING`, and whether guest RAM can be populated then.

    ``program`` is our wrapper, "" where there is none; whether a stubdomain's ramdisk has the library, the config says.
    """
    lacking = config.preload and not config.stubdom and preload_library(program) is None
    return CREATING.without_ram(NO_LIBRARY if lacking else None)


def _become_xl(subcommand: str, words: Sequence[str], offered: tuple[str, str] | None = None) -> NoReturn:
    """Become xl with this handover, or with none: our environment may hold one that was made for another domain."""
    path = real_xl()
    options = os.environ.get(XL_OPTIONS, "").split()
    changes: dict[str, str | None] = dict.fromkeys((REAL_XL, XL_OPTIONS, WRAPPER, handover.VARIABLE))
    if offered is not None:
        changes[offered[0]] = offered[1]
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        become(path, [path, *options, subcommand, *words], changes)
    except OSError as error:
        raise HostError(
            f"{path}: {error.strerror}", hint="reinstall it (Debian: xen-utils-common)", code="XLP601"
        ) from error


def _let_xl_reject(words: Sequence[str]) -> None:
    """Let xl judge a config that we cannot parse; if xl rejects it too, exit with xl's own message and status."""
    import signal

    path = real_xl()
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    # -N is create's own -n, but stands where no other word can end the options.
    arguments = [path, *os.environ.get(XL_OPTIONS, "").split(), "-N", "create", *words]
    pid = os.posix_spawn(
        path,
        arguments,
        first_environment(),
        file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )
    os.close(null)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        sys.exit(code if code > 0 else 128 - code)


def _preflight(config: DomainConfig, path: str, when: Occasion) -> None:
    """Refuse all that can be refused before anything is created."""
    device_model(config, path)
    from xlplug.dom0 import snapshot
    from xlplug.xen.ctrl import XenCtrl
    from xlplug.xen.store import XenStore

    with XenCtrl() as xen, XenStore() as store:
        made = rehearse(config, snapshot.take(xen, store, config), when)
        if made.refusals:  # one line; 'xlplug plan' has the warnings too
            raise Refused(*made.refusals)
        for text in made.warnings:
            streams.complain(f"warning: {text}")
        for text in made.notes if config.preload else ():
            streams.complain(f"note: {text}")
        if _takes_vga(made):
            from xlplug.execute.sole_vga import require_sole_vga

            require_sole_vga(made, xen, store)


def _takes_vga(made: "Plan") -> bool:
    """Whether the domain will hold legacy VGA ports, of which there is only one set."""
    from xlplug.model.steps import IOPORT
    from xlplug.vga import VGA_PORT_SET

    return any(step.kind == IOPORT and VGA_PORT_SET.overlaps(*step.range) for step in made.steps)


def device_model(config: DomainConfig, path: str) -> str:
    """The program that our wrapper will become for a configuration.

    Raises:
        ConfigError: it asks for another kind of device model.
        HostError, XenUnavailableError: there is none.
    """
    problem = not_for_us(config)
    if problem is not None:
        raise ConfigError(problem.what, path=path, hint=problem.advice, code=problem.code)
    return real(config.device_model_override or "")


def rehearse(config: DomainConfig, host: "HostSnapshot", when: Occasion) -> "Plan":
    """The plan as it is made before the domain exists; ``when`` is what `occasion` returned.

    It is refused too when QEMU in dom0 will find no VBIOS.
    """
    from xlplug.igd import IGD
    from xlplug.plan import build

    made = build(config, host, occasion=when)
    displays = [assigned.device for assigned in made.devices if assigned.device.bdf == IGD]
    if made.has_stubdom or not displays:
        return made
    from xlplug.hook.device_view import require_vbios

    try:
        require_vbios(config, host, displays)
    except XlplugError as error:
        return made._replace(refusals=(*made.refusals, error.problem))
    return made
