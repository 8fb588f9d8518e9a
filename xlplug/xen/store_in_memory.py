# SPDX-License-Identifier: LGPL-2.1-only
"""A xenstore in memory, for ``--recorded`` and for tests; it behaves as the real one, which the contract tests run on too."""

from collections.abc import Callable
from typing import TypeVar

from xlplug.model.errors import StoreError
from xlplug.model.hypervisor import Nodes

__all__ = ["MemStore"]

T = TypeVar("T")

#: Source: tools/xenstore/xenstored_core.c, is_valid_nodename.
_PATH_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@")
_TRIES = 1000  # as xen/store.py has it
_PAYLOAD_MAX = 4096  # bytes of path, NUL and value.  Source: xen/include/public/io/xs_wire.h, XENSTORE_PAYLOAD_MAX


class _MemNodes:
    """Nodes, and which of them were looked at: what a transaction depends on."""

    def __init__(self, nodes: dict[str, str]) -> None:
        self.nodes = nodes
        self.seen: set[str] = set()

    def read(self, path: str) -> str | None:
        _check_path("read", path)
        self.seen.add(path)
        return self.nodes.get(path)

    def write(self, path: str, value: str) -> None:
        _check_path("write", path)
        if len(path) + 1 + len(value.encode("utf-8", "surrogateescape")) > _PAYLOAD_MAX:
            raise StoreError(f"xenstore: cannot write {path}: E2BIG")
        self._put(path, value)
        parent = path.rpartition("/")[0]
        while parent and parent not in self.nodes:  # xenstored makes the parents too, empty
            self._put(parent, "")
            parent = parent.rpartition("/")[0]

    def list(self, path: str) -> "list[str]":
        _check_path("list", path)
        self.seen.add(path)
        start = f"{path}/"
        return sorted({node[len(start) :].split("/", 1)[0] for node in self.nodes if node.startswith(start)})

    def remove(self, path: str) -> None:
        _check_path("remove", path)
        for node in [n for n in self.nodes if n == path or n.startswith(f"{path}/")]:
            self._drop(node)

    def _put(self, path: str, value: str) -> None:
        self.nodes[path] = value
        self.seen.add(path)

    def _drop(self, path: str) -> None:
        del self.nodes[path]
        self.seen.add(path)


class _MemTransaction(_MemNodes):
    """A copy of all nodes, and what was changed in it."""

    def __init__(self, nodes: dict[str, str]) -> None:
        super().__init__(dict(nodes))
        self.changes: dict[str, str | None] = {}

    def _put(self, path: str, value: str) -> None:
        super()._put(path, value)
        self.changes[path] = value

    def _drop(self, path: str) -> None:
        super()._drop(path)
        self.changes[path] = None


class MemStore(_MemNodes):
    """An in-memory `xlplug.model.hypervisor.Store`; absolute paths only."""

    def __init__(self) -> None:
        super().__init__({})
        self.readers: dict[str, int] = {}
        self._count = 0  # of changes
        self._changed: dict[str, int] = {}  # the last change of each node, and of its list of children

    def let_read(self, path: str, domid: int) -> None:
        """As `xlplug.xen.store.XenStore.let_read`; ``readers`` has who may."""
        _check_path("let another domain read", path)
        if path not in self.nodes:
            raise StoreError(f"xenstore: cannot let another domain read {path}: ENOENT")
        self.readers[path] = domid

    def atomically(self, change: Callable[[Nodes], T]) -> T:
        for _ in range(_TRIES):
            began = self._count
            view = _MemTransaction(self.nodes)
            result = change(view)
            if any(self._changed.get(path, 0) > began for path in view.seen):
                continue
            for path, value in view.changes.items():
                if value is not None:
                    self._put(path, value)
                elif path in self.nodes:
                    self._drop(path)
            return result
        raise StoreError("xenstore: cannot end a transaction: EAGAIN")

    def _put(self, path: str, value: str) -> None:
        self._change(path, new=path not in self.nodes)
        self.nodes[path] = value

    def _drop(self, path: str) -> None:
        self._change(path, new=True)
        del self.nodes[path]

    def _change(self, path: str, *, new: bool) -> None:
        self._count += 1
        for changed in (path, path.rpartition("/")[0]) if new else (path,):
            self._changed[changed] = self._count


def _check_path(verb: str, path: str) -> None:
    if not path.startswith("/") or path.endswith("/") or "//" in path or not _PATH_CHARS.issuperset(path):
        raise StoreError(f"xenstore: cannot {verb} {path}: EINVAL")
