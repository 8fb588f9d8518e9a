# SPDX-License-Identifier: LGPL-2.1-only
"""Recorded hosts and domains below some folders, host by host, judged by as many processes as there are processors.

A folder with ``host.json`` is a host; every ``*.cfg`` and every recorded domain (``domain.json``) below it is a domain of that
host.  Recorded domains elsewhere bring their own host; those side by side whose hosts have one name are of one host.

Memory stays the same however many hosts there are: folders are found, judged and handed on one after the other, a few
ahead of the reader.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple

from xlplug.audit.judge import UNREADABLE, Finding, Verdict, judge, together
from xlplug.dom0.files import open_regular, read_all
from xlplug.dom0.find_config import parse
from xlplug.dom0.recording import load_domain, load_host
from xlplug.model.addr import Domid
from xlplug.model.errors import ConfigError, HostError, XlplugError
from xlplug.model.host import HostSnapshot
from xlplug.model.occasion import Who
from xlplug.model.problem import Problem

__all__ = ["audit", "units"]

_RECORDED = ("host.json", "domain.json", "domain.cfg", "libxl.json")  # docs/recording.md
_AHEAD = 8  # for each process: units that wait to be judged or to be read
_CHUNK = 16  # units for a process at once


class Unit(NamedTuple):
    """A folder to be judged as one; ``host`` says whether it has the ``host.json`` for all that is in it."""

    folder: str
    host: bool


def audit(folders: Sequence[str], processes: int = 0) -> Iterator[Verdict]:
    """Every verdict, in the order of the folders.

    Raises:
        HostError: a folder is not there, or there is nothing recorded in any of them.
    """
    for folder in folders:
        if not os.path.isdir(folder):
            raise HostError(
                f"{folder} is not a folder", hint="give folders with recordings (see 'xlplug record')", code="XLP807"
            )
    work = _chunks(unit for folder in folders for unit in units(folder))
    first = next(work, None)
    if first is None:
        raise HostError(
            f"nothing is recorded in {folders[0]}", hint="make recordings with 'xlplug record'", code="XLP807"
        )
    workers = processes or os.cpu_count() or 1
    second = next(work, None)
    if workers == 1 or second is None:
        for chunk in (first, *([second] if second else []), *work):
            yield from _judge_all(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: deque[Future[list[Verdict]]] = deque(pool.submit(_judge_all, chunk) for chunk in (first, second))
        for chunk in work:
            if len(waiting) >= workers * _AHEAD:
                yield from waiting.popleft().result()
            waiting.append(pool.submit(_judge_all, chunk))
        while waiting:
            yield from waiting.popleft().result()


def _chunks(found: Iterable[Unit]) -> Iterator[list[Unit]]:
    them = iter(found)
    while chunk := list(islice(them, _CHUNK)):
        yield chunk


def units(folder: str) -> Iterator[Unit]:
    """The units below a folder, in the order of their names."""
    names = sorted(os.listdir(folder))  # strings only: a fleet may have a hundred thousand hosts in one folder
    if "host.json" in names and "domain.json" not in names:
        yield Unit(folder, host=True)
        return
    if "domain.json" in names:
        yield Unit(folder, host=False)
        return
    if any(_is_recording(f"{folder}/{name}") for name in names):
        yield Unit(folder, host=False)
    for name in names:
        path = f"{folder}/{name}"
        if os.path.isdir(path) and not os.path.islink(path) and not _is_recording(path):
            yield from units(path)


def _is_recording(path: str) -> bool:
    return os.path.exists(f"{path}/domain.json")


def _judge_all(chunk: Sequence[Unit]) -> list[Verdict]:
    return [verdict for unit in chunk for verdict in _judge(unit)]


def _judge(unit: Unit) -> list[Verdict]:
    """A unit's verdicts; what cannot be read is also a verdict."""
    if unit.host:
        path = f"{unit.folder}/host.json"
        try:
            _must_be_file(path)
            host = load_host(path)
        except XlplugError as error:
            return [_unreadable(unit.folder, path, error)]
        return together([_of_file(path, host) for path in _files(unit.folder)])
    below = [f"{unit.folder}/{name}" for name in os.listdir(unit.folder)]
    folders = [unit.folder] if _is_recording(unit.folder) else [path for path in below if _is_recording(path)]
    by_host: dict[str, list[Verdict]] = {}
    for folder in sorted(folders):
        verdict = _of_recording(folder, None)
        by_host.setdefault(verdict.host, []).append(verdict)
    return [verdict for same in by_host.values() for verdict in together(same)]


def _files(folder: str) -> Iterator[str]:
    """Configurations and recorded domains of a host's folder."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if _is_recording(entry.path):
                yield entry.path
            else:
                yield from _files(entry.path)
        elif entry.name.endswith((".cfg", ".libxl-json")):
            yield entry.path


def _of_file(path: str, host: HostSnapshot) -> Verdict:
    if os.path.isdir(path):
        return _of_recording(path, host)
    try:
        return judge(parse(_read(path), path), host, path)
    except OSError as error:
        return _unreadable(host.name, path, ConfigError(error.strerror or "cannot be read", path=path, code="XLP201"))
    except XlplugError as error:
        return _unreadable(host.name, path, error)


def _of_recording(folder: str, host: HostSnapshot | None) -> Verdict:
    try:
        for name in _RECORDED:
            _must_be_file(f"{folder}/{name}")
        recorded = load_domain(folder)
        host = recorded.host
        data = recorded.config if recorded.config is not None else recorded.libxl_json
        if data is None:
            raise ConfigError(
                "no domain.cfg and no libxl.json", path=folder, hint="record the domain again", code="XLP206"
            )
        stubdom = None if recorded.stubdom is None else Domid(recorded.stubdom.domid)
        who = Who(Domid(recorded.target.domid), stubdom)
        return judge(parse(data, folder), host, folder, who)
    except XlplugError as error:
        return _unreadable(host.name if host else folder, folder, error)


def _read(path: str) -> bytes:
    file = open_regular(path)
    if file is None:
        raise ConfigError("not a regular file", path=path, hint="remove it", code="XLP201")
    with file:
        return read_all(file, path)


def _must_be_file(path: str) -> None:
    """A folder comes from elsewhere, and a pipe in it would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError("not a regular file", path=path, hint="remove it", code="XLP201")


def _unreadable(host: str, path: str, error: XlplugError) -> Verdict:
    name = os.path.splitext(os.path.basename(path))[0]
    at = f"line {error.line}: " if isinstance(error, ConfigError) and error.line else ""
    return Verdict(
        host,
        name,
        path,
        UNREADABLE,
        findings=(Finding("refused", Problem(f"{at}{error.message}", error.hint, error.code)),),
    )
