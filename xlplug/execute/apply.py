# SPDX-License-Identifier: LGPL-2.1-only
"""Carrying out steps, and taking them back.

One undo, derived from the very steps that were applied.  No policy: what to do was decided in plan.py, and what to leave
in place is in each step's ``kept``.
"""

import errno
from collections.abc import Callable, Iterable, Sequence

from xlplug.execute.populate import populate, release
from xlplug.model.errors import ApplyError, RollbackError, XenError, XlplugError
from xlplug.model.hypervisor import Hypervisor
from xlplug.model.steps import (
    IOMEM_PERMISSION,
    IOPORT_MAPPING,
    IOPORT_PERMISSION,
    MEMORY_MAPPING,
    POPULATE_PHYSMAP,
    Step,
)

__all__ = ["Log", "apply", "take_back"]

Log = Callable[[str], None]

#: Undoing finds what it wanted already: no such domain; no such mapping (memory: EINVAL, ports from 4.23 on: ENOENT).
_ALREADY_GONE = {
    IOMEM_PERMISSION: (errno.ESRCH,),
    IOPORT_PERMISSION: (errno.ESRCH,),
    MEMORY_MAPPING: (errno.ESRCH, errno.EINVAL),
    IOPORT_MAPPING: (errno.ESRCH, errno.ENOENT),
}


def apply(steps: Sequence[Step], xen: Hypervisor, log: Log, commit: Callable[[], None] = lambda: None) -> None:
    """Do the steps in order, then ``commit``; on any failure or interrupt take back all that was done, then raise.

    ``log`` gets each step's line as it is done, and "undo:" lines.

    Raises:
        ApplyError: a step failed or the run was interrupted; nothing of ours is left.
        RollbackError: and an undo failed too.
    """
    begun: list[Step] = []
    try:
        for step in steps:
            # Pushed before the call: an interrupt may come after it has taken effect.
            begun.append(step)
            _perform(step, xen)
            log(str(step))
        commit()
    except BaseException as error:
        at = str(begun[-1]) if begun else "the first step"
        if isinstance(error, XenError) and begun[-1].op != POPULATE_PHYSMAP:
            begun.pop()  # Xen's permission calls do all or nothing, and libxenctrl unmaps a failed mapping itself
        left = take_back(begun, xen, lambda line: log(f"undo: {line}"))
        if not isinstance(error, XlplugError | KeyboardInterrupt):
            raise
        failed = f"'{at}' failed: {error.message}" if isinstance(error, XlplugError) else f"interrupted at '{at}'"
        hint = error.hint if isinstance(error, XlplugError) else "run it again"
        if left:
            raise RollbackError(failed, left, hint=hint) from error
        raise ApplyError(f"{failed}; everything granted by this run is undone", hint=hint) from error


def take_back(steps: Iterable[Step], xen: Hypervisor, log: Log) -> tuple[str, ...]:
    """Undo the steps in reverse order, going on past failures; what could not be undone, one line each.

    What is gone already is no failure, so this can run again after it was interrupted.
    """
    left: list[str] = []
    for step in reversed(list(steps)):
        for undo in step.undo():
            try:
                _perform(undo, xen)
            except XenError as error:
                if error.errno not in _ALREADY_GONE.get(undo.op, ()):
                    left.append(f"{step} ({error.message})")
                    break
            else:
                log(str(undo))
    return tuple(left)


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
