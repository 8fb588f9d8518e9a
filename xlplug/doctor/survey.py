# SPDX-License-Identifier: LGPL-2.1-only
"""Looks once at everything that ``xlplug doctor`` judges: a dom0, its hook, and configurations.

Nothing is changed, and nothing that fails keeps the rest from being read: each reading is a value or a `Missing`.
"""

import contextlib
import sys
from collections.abc import Sequence

from xlplug.doctor import survey_config, survey_pci
from xlplug.doctor.build_date import built_on
from xlplug.doctor.facts import Facts, Named
from xlplug.doctor.places import LIVE, Doors, Places
from xlplug.doctor.reading import Broken, Missing, Reading, tried
from xlplug.doctor.survey_hook import find_watcher, read_hook
from xlplug.doctor.survey_xen import XenSide
from xlplug.dom0.os_release import distribution
from xlplug.model.host import UNNAMED

__all__ = ["survey"]


def survey(configs: Sequence[str] = (), places: Places | None = None, doors: Doors = LIVE) -> Facts:
    """Look at everything once."""
    places = places or Places()
    with contextlib.ExitStack() as stack:
        xen = XenSide(places, doors, stack)
        devices, left_out = survey_pci.all_functions(places, xen.store)
        memory = xen.memory()
        host = survey_pci.host_of(places, devices, memory, xen.version)
        known = None if isinstance(xen.version, Missing) else xen.version
        return Facts(
            euid=xen.euid,
            python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
            modules=_modules(),
            version=xen.version if isinstance(xen.version, Missing) else xen.version[:2],
            version_text=known[2] if known else "",
            control=xen.control,
            nodes=xen.nodes(),
            library=xen.library,
            domctl=xen.domctl,
            libraries=xen.libraries(),
            store=xen.answer,
            directio=xen.directio(),
            console_room=xen.console_room(),
            assignable=survey_pci.assignable(places),
            devices=devices,
            damaged=tuple(note.problem for note in left_out if note.about != UNNAMED),
            unnamed=tuple(note.problem for note in left_out if note.about == UNNAMED),
            distribution=distribution(places.os_release),
            built=built_on(places.sys_hypervisor),
            arbiter=survey_pci.arbiter_line(places),
            dev_mem=survey_pci.dev_mem(places, xen.euid),
            firmware=survey_pci.left_by_firmware(host, memory),
            hook=tried(read_hook, places.prefix, xen.version),
            watcher=tried(find_watcher, places.proc),
            configs=tuple(survey_config.read(path, host, xen) for path in configs),
        )


def _modules() -> tuple[Named, ...]:
    return (
        Named("cffi", _module("cffi", "_cffi_backend", "xlplug.xen._ffi")),
        Named("pyudev", _module("pyudev", "pyudev", "xlplug.dom0.udev")),
        Named("click", _module("click", "click", "xlplug.commands.cli")),
    )


def _module(name: str, module: str, user: str) -> Reading[str]:
    """The version of a package by its ``module``, once the module of ours that uses it has been imported."""
    import importlib

    try:
        importlib.import_module(user)
    except ImportError as error:
        return Broken(f"Python's {name} cannot be loaded: {error}", f"install it (Debian: python3-{name})")
    # Newer versions of click do not say it like this, and importlib.metadata takes as long as all else that doctor loads.
    version = vars(sys.modules[module]).get("__version__")
    if version is None:
        from importlib import metadata

        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            return f"{name}, version not known"
    return f"{name} {version}"
