# SPDX-License-Identifier: LGPL-2.1-only
"""Whether ``xl create`` goes through us, and whether everything on that way works.  Pure."""

from collections.abc import Iterator

from xlplug.doctor.facts import Facts, Hook
from xlplug.doctor.finding import FAILURE, INFO, OK, WARNING, Finding, missing, there
from xlplug.doctor.reading import Broken, Missing, Reading, Skipped


def hook(facts: Facts) -> Iterator[Finding]:
    """Whether ``xl create`` goes through us, and whether everything on that way works."""
    if isinstance(facts.hook, Missing):
        yield missing("hook", facts.hook)
        return
    yield _first_xl(facts.hook, watched=isinstance(facts.watcher, int))
    yield from _files(facts.hook)
    yield there("real xl", Skipped("hook") if facts.hook.first is None else facts.hook.real_xl)
    if facts.hook.hooked:
        yield there("xlplug", facts.hook.program)
    if facts.hook.hooked or not isinstance(facts.hook.wrapper, Missing):
        yield from _wrapper(facts.hook)
    yield device_model("device model", facts.hook.device_model, facts.hook.fits)
    if facts.hook.library:
        yield Finding(OK, "preload library", facts.hook.library)
    else:
        text = "not installed: needed only for xlplug_preload=1 and a device model in dom0"
        yield Finding(INFO, "preload library", text)


def _first_xl(found: Hook, *, watched: bool) -> Finding:
    if found.first is None:
        return Finding(FAILURE, "hook", "no xl in PATH", "install it (Debian: xen-system-amd64), or correct PATH")
    if found.hooked:
        return Finding(OK, "hook", f"'xl create' runs {found.first}, the front end of xlplug")
    if not isinstance(found.files, Missing) and found.files:
        advice = f"put {found.prefix}/sbin before {found.first.rpartition('/')[0] or '/'} in PATH"
    else:
        advice = "run 'xlplug hook install', or 'xlplug watch' as a service"
    text = f"'xl create' is not hooked: it runs {found.first}"
    if watched:
        return Finding(WARNING, "hook", f"{text}; only 'xlplug watch' grants", advice)
    return Finding(FAILURE, "hook", text, advice)


def _files(found: Hook) -> Iterator[Finding]:
    if isinstance(found.files, Missing):
        yield missing("hook files", found.files)
        return
    bad = [file for file in found.files if file.state]
    for file in bad:
        status = WARNING if file.state == "changed" else FAILURE
        advice = "run 'xlplug hook install' again"
        if file.state == "changed":
            advice = f"save your changes, remove it, and {advice}"
        yield Finding(status, "hook files", f"{file.path} is {_STATES[file.state]}", advice)
    if found.files and not bad:
        yield Finding(OK, "hook files", f"as installed below {found.prefix}")
    elif found.hooked and not found.files:
        yield Finding(
            WARNING, "hook files", f"{found.first} is not in a manifest below {found.prefix}: a copy made by hand",
            "'xlplug hook install' makes one that can be checked and removed",
        )  # fmt: skip


_STATES = {"missing": "missing", "changed": "not as it was installed", "not executable": "not executable"}


def _wrapper(found: Hook) -> Iterator[Finding]:
    if isinstance(found.wrapper, Missing):
        yield missing("wrapper", found.wrapper)
        return
    if isinstance(found.ran, Missing):
        yield missing("wrapper", found.ran)
    else:
        yield Finding(OK, "wrapper", f"{found.wrapper} starts, with xlplug {found.ran.version}")


def watcher(facts: Facts) -> Iterator[Finding]:
    """The daemon is for stacks without the hook, so it need not run."""
    if isinstance(facts.watcher, Missing):
        yield missing("watcher", facts.watcher)
    elif facts.watcher is None:
        yield Finding(INFO, "watcher", "not running: needed only without the hook, or for displays plugged in later")
    else:
        yield Finding(OK, "watcher", f"running (pid {facts.watcher})")


def device_model(name: str, path: Reading[str], fits: Reading[str], before: str = "") -> Finding:
    """That it is there, and was built for the running Xen.  Looking into it is extra: that needs pyelftools."""
    if isinstance(path, Missing):
        return missing(name, path, "device model" if before else "")
    if isinstance(fits, Broken):
        return Finding(FAILURE, name, f"the device model {path}: {fits.what}", fits.advice, fits.code)
    return Finding(
        OK, name, f"{before}{path} ({f'not looked into: {fits.what}' if isinstance(fits, Missing) else fits})"
    )
