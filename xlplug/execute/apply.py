# SPDX-License-Identifier: LGPL-2.1-only
"""Carrying out steps, and taking them back.

One undo, derived from the very steps that were applied.  No policy: what to do was decided in plan.py, and what to leave
in place is in each step's ``kept``.
"""

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence

from xlplug.execute.populate import populate, release
from xlplug.model.errors import ApplyError, RollbackError, XenError, XlplugError
from xlplug.model.hypervisor import Hypervisor
from xlplug.model.rangeset import Range, RangeSet
from xlplug.model.steps import (
    IOMEM,
    IOMEM_PERMISSION,
    IOPORT,
    IOPORT_MAPPING,
    IOPORT_PERMISSION,
    MEMORY_MAPPING,
    POPULATE_PHYSMAP,
    Step,
)

__all__ = ["Log", "apply", "quiet", "take_back"]

Log = Callable[[str], None]

#: Undoing finds what it wanted already: no such domain; no such mapping (memory: EINVAL, ports from 4.23 on: ENOENT), or a
#: domain that has no port mappings at all (EOPNOTSUPP).
_ALREADY_GONE = {
    IOMEM_PERMISSION: (errno.ESRCH,),
    IOPORT_PERMISSION: (errno.ESRCH,),
    MEMORY_MAPPING: (errno.ESRCH, errno.EINVAL),
    IOPORT_MAPPING: (errno.ESRCH, errno.ENOENT, errno.EOPNOTSUPP),
}


def quiet(log: Log) -> Log:
    """The same log, which never raises: a full disk or a terminal that is gone must not end an undo.

    Sources: EIO of a terminal that hung up, ENOSPC of a log file, EPIPE; AttributeError of a stream that was closed before
    Python started (sys.stdout is None), ValueError of one that was closed since.
    """

    def say(line: str) -> None:
        try:  # noqa: SIM105 - contextlib would have to be loaded
            log(line)
        except (OSError, ValueError, AttributeError):
            pass

    return say


def apply(
    steps: Sequence[Step],
    xen: Hypervisor,
    log: Log,
    commit: Callable[[], None] = lambda: None,
    *,
    protect: Sequence[Step] = (),
    let_in: Callable[[], None] = lambda: None,
) -> None:
    """Do the steps in order, then ``commit``; on any failure or interrupt take back all that was done, then raise.

    ``log`` gets each step's line as it is done, and "undo:" lines.  What the steps in ``protect`` need is left by the undo.
    ``let_in`` is called where an interrupt may come.

    Raises:
        ApplyError: a step failed or the run was interrupted; nothing of ours is left.
        RollbackError: and an undo failed too.
    """
    say = quiet(log)
    begun: list[Step] = []
    try:
        for step in steps:
            let_in()
            # Pushed before the call: an interrupt may come after it has taken effect.
            begun.append(step)
            _perform(step, xen)
            say(str(step))
        let_in()
        commit()
    except BaseException as error:
        at = str(begun[-1]) if begun else "the first step"
        if isinstance(error, XenError) and begun and begun[-1].op != POPULATE_PHYSMAP:
            begun.pop()  # Xen's permission calls do all or nothing, and libxenctrl unmaps a failed mapping itself
        left = take_back(begun, xen, lambda line: say(f"undo: {line}"), protect=protect)
        if not isinstance(error, XlplugError | KeyboardInterrupt):
            raise
        failed = f"'{at}' failed: {error.message}" if isinstance(error, XlplugError) else f"interrupted at '{at}'"
        hint = error.hint if isinstance(error, XlplugError) else "run it again"
        if left:
            raise RollbackError(failed, left, hint=hint) from error
        raise ApplyError(f"{failed}; everything granted by this run is undone", hint=hint) from error


def take_back(steps: Iterable[Step], xen: Hypervisor, log: Log, *, protect: Sequence[Step] = ()) -> tuple[str, ...]:
    """Undo the steps in reverse order, going on past failures; what could not be undone, one line each.

    What is gone already is not a failure, so this can run again after it was interrupted.  Permissions that the steps in
    ``protect`` need stay.
    """
    say = quiet(log)
    left: list[str] = []
    needed = _needed(protect)
    for step in reversed(list(steps)):
        for undo in _sparing(step, needed).undo():
            try:
                if undo.op == MEMORY_MAPPING and not undo.add:
                    _unmap(undo, xen)
                else:
                    _perform(undo, xen)
            except XenError as error:
                if error.errno not in _ALREADY_GONE.get(undo.op, ()):
                    left.append(f"{step} ({error.message})")
                    break
            else:
                say(str(undo))
    return tuple(left)


def _needed(protect: Sequence[Step]) -> dict[tuple[int | None, str], RangeSet]:
    """What these steps need, by domain and kind."""
    ranges: dict[tuple[int | None, str], list[Range]] = {}
    for step in protect:
        ranges.setdefault((step.domid, step.kind), []).append(step.range)
    return {key: RangeSet(found) for key, found in ranges.items()}


def _sparing(step: Step, needed: Mapping[tuple[int | None, str], RangeSet]) -> Step:
    """The step with what others need added to ``kept``."""
    others = needed.get((step.domid, step.kind))
    if step.kind not in (IOMEM, IOPORT) or others is None:
        return step
    return step._replace(kept=step.kept | others.within(*step.range))


def _unmap(step: Step, xen: Hypervisor) -> None:
    """Unmap memory, all of the step's pages that are mapped.

    Up to 4.21 this needs the permission, which someone else may have revoked, or a killed run not have granted yet: then it
    is granted for as long as the call takes, but for what ``kept`` says is held by others' right.

    Raises:
        XenError: EINVAL where no page was mapped.
    """
    try:
        _unmap_held(step, xen)
    except XenError as error:
        if error.errno != errno.EPERM:
            raise
        domid = step.domid or 0
        xen.iomem_permission(domid, step.first, step.nr, allow=True)
        try:
            _unmap_held(step, xen)
        finally:
            for r in RangeSet([step.range]) - step.kept:
                xen.iomem_permission(domid, r.start, r.nr, allow=False)


def _unmap_held(step: Step, xen: Hypervisor) -> None:
    """Unmap in one call; page by page where a page is not mapped, because Xen stops at the first such."""
    try:
        _perform(step, xen)
    except XenError as error:
        if error.errno != errno.EINVAL or step.nr == 1:
            raise
        gone = 0
        for i in range(step.nr):
            try:
                _perform(step._replace(first=step.first + i, first_guest=(step.first_guest or 0) + i, nr=1), xen)
            except XenError as page:
                if page.errno != errno.EINVAL:
                    raise
                gone += 1
        if gone == step.nr:
            raise


def _perform(step: Step, xen: Hypervisor) -> None:
    """The one call that a step stands for."""
    if step.domid is None:
        raise ValueError(f"step without a domid: {step}")
    guest = step.first if step.first_guest is None else step.first_guest
    match step.op:
        case "iomem_permission":
            xen.iomem_permission(step.domid, step.first, step.nr, allow=step.add)
        case "ioport_permission":
            xen.ioport_permission(step.domid, step.first, step.nr, allow=step.add)
        case "memory_mapping":
            xen.memory_mapping(step.domid, guest, step.first, step.nr, add=step.add)
        case "ioport_mapping":
            xen.ioport_mapping(step.domid, guest, step.first, step.nr, add=step.add)
        case "populate_physmap":
            (populate if step.add else release)(step, xen)
        case _:
            raise ValueError(f"no such operation: {step.op}")
