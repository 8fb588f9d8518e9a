# SPDX-License-Identifier: LGPL-2.1-only
"""One hypervisor and one xenstore in memory for many processes: a server, and what a process uses in place of Xen.

Calls are carried out one at a time, in the order in which they come, as Xen and xenstored do it.  A transaction is read node by
node and ends as xenstored ends it: it fails where something that it has looked at was changed meanwhile.
"""

import os
import pickle
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from xlplug.model.errors import StoreError, XenError
from xlplug.model.hypervisor import DomainInfo, Nodes
from xlplug.xen.in_memory import MemStore, MemXen

__all__ = ["Server", "Store", "Xen"]

T = TypeVar("T")


class Host:
    """What the server has."""

    def __init__(self) -> None:
        self.xen = MemXen((4, 17))
        self.store = MemStore()
        self.version = 0
        self.changed: dict[str, int] = {}  # the version in which a node, or its list of children, was changed
        self.lock = threading.Lock()

    def call(self, what: str, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> object:
        with self.lock:
            if what == "commit":
                return self._commit(*args)
            if what == "begin":
                return self.version
            if what == "destroy":
                self.xen._domains.pop(*args)
                return None
            before = dict(self.store.nodes)
            result = getattr(self.xen if what == "xen" else self.store, name)(*args, **options)
            self._note(before)
            return result

    def _commit(self, began: int, seen: set[str], changes: list[tuple[str, tuple[str, ...]]]) -> bool:
        if any(self.changed.get(path, 0) > began for path in seen):
            return False
        before = dict(self.store.nodes)
        for name, args in changes:
            getattr(self.store, name)(*args)
        self._note(before)
        return True

    def _note(self, before: dict[str, str]) -> None:
        if before == self.store.nodes:
            return
        self.version += 1
        for path in before.keys() | self.store.nodes.keys():
            if before.get(path) != self.store.nodes.get(path):
                self.changed[path] = self.version
                if (path in before) != (path in self.store.nodes):
                    self.changed[path.rpartition("/")[0]] = self.version


class Server:
    """Serves a `Host` at a path, in threads of this process."""

    def __init__(self, path: Path) -> None:
        self.host = host = Host()
        self.path = str(path)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while True:
                    try:
                        asked = pickle.load(self.rfile)
                    except (EOFError, ConnectionError):
                        return
                    try:
                        answer = (True, host.call(*asked))
                    except (XenError, StoreError) as error:
                        answer = (False, error)
                    pickle.dump(answer, self.wfile)
                    self.wfile.flush()

        class Threads(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Threads(self.path, Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Client:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile("rwb")

    def ask(self, what: str, name: str = "", *args: object, **options: object) -> Any:
        pickle.dump((what, name, args, options), self._file)
        self._file.flush()
        done, answer = pickle.load(self._file)
        if not done:
            raise answer
        return answer


class Xen(_Client):
    """A `xlplug.model.hypervisor.Hypervisor` of this process."""

    version = (4, 17)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **options: self.ask("xen", name, *args, **options)

    def domain_info(self, domid: int) -> DomainInfo | None:
        found: DomainInfo | None = self.ask("xen", "domain_info", domid)
        return found


class Store(_Client):
    """A `xlplug.model.hypervisor.Store` of this process."""

    def read(self, path: str) -> str | None:
        found: str | None = self.ask("store", "read", path)
        return found

    def write(self, path: str, value: str) -> None:
        self.ask("store", "write", path, value)

    def list(self, path: str) -> "list[str]":
        found: list[str] = self.ask("store", "list", path)
        return found

    def remove(self, path: str) -> None:
        self.ask("store", "remove", path)

    def atomically(self, change: Callable[[Nodes], T]) -> T:
        while True:
            view = _View(self, self.ask("begin"))
            result = change(view)
            if self.ask("commit", "", view.began, view.seen, view.changes):
                return result


class _View:
    """A transaction: what it reads is remembered, what it writes comes at its end, and is read back before that."""

    def __init__(self, store: Store, began: int) -> None:
        self.store = store
        self.began = began
        self.seen: set[str] = set()
        self.changes: list[tuple[str, tuple[str, ...]]] = []
        self._mine = MemStore()
        self._gone: list[str] = []

    def read(self, path: str) -> str | None:
        self.seen.add(path)
        if path in self._mine.nodes:
            return self._mine.read(path)
        return None if self._removed(path) else self.store.read(path)

    def list(self, path: str) -> "list[str]":
        self.seen.add(path)
        theirs = [] if self._removed(path) else self.store.list(path)
        kept = {name for name in theirs if not self._removed(f"{path}/{name}")}
        return sorted(kept | set(self._mine.list(path)))

    def write(self, path: str, value: str) -> None:
        self._mine.write(path, value)
        self.changes.append(("write", (path, value)))

    def remove(self, path: str) -> None:
        self._mine.remove(path)
        self._gone.append(path)
        self.changes.append(("remove", (path,)))

    def _removed(self, path: str) -> bool:
        return any(path == gone or path.startswith(f"{gone}/") for gone in self._gone)


def in_processes(
    count: int, work: Callable[[int], None], before_waiting: Callable[[], None] = lambda: None
) -> list[int]:
    """``work`` in that many processes at once; their exit statuses.  None begins before all are there."""
    reading, writing = os.pipe()
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.close(writing)
                os.read(reading, 1)
                work(number)
                status = 0
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 70
            except BaseException:  # noqa: BLE001 - printed, in a process of its own
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(reading)
    os.close(writing)
    before_waiting()
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
