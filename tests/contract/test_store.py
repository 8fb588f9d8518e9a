# SPDX-License-Identifier: LGPL-2.1-only
"""What every xenstore must do, the real and the one in memory alike."""

from collections.abc import Iterator

import pytest

from tests.contract.conftest import World
from xlplug.model.errors import StoreError
from xlplug.model.hypervisor import Nodes, Store

HERE = "/tool/xlplug-contract"


@pytest.fixture
def store(world: World) -> Iterator[Store]:
    yield world.store
    world.store.remove(HERE)


def test_what_is_written_is_read(store: Store) -> None:
    for value in ("", "text", "é", "a\nb", "x" * 3000):
        store.write(f"{HERE}/a", value)
        assert store.read(f"{HERE}/a") == value


def test_parents_appear_empty(store: Store) -> None:
    store.write(f"{HERE}/a/b/c", "1")
    assert store.read(f"{HERE}/a/b") == ""
    store.write(f"{HERE}/a", "2")
    assert store.read(f"{HERE}/a/b/c") == "1"


def test_listing_is_of_children_only(store: Store) -> None:
    for name in ("a", "a-b", "c/d"):
        store.write(f"{HERE}/{name}", "")
    assert sorted(store.list(HERE)) == ["a", "a-b", "c"]
    assert store.list(f"{HERE}/a") == []
    assert store.list(f"{HERE}/nothing/there") == []


def test_removing_takes_all_below_and_nothing_beside(store: Store) -> None:
    for name in ("a/b/c", "a-b"):
        store.write(f"{HERE}/{name}", "")
    store.remove(f"{HERE}/a")
    assert store.list(HERE) == ["a-b"]
    store.remove(f"{HERE}/a")
    store.remove(f"{HERE}/no/such/parent")
    assert store.read(f"{HERE}/a/b/c") is None


@pytest.mark.parametrize("path", [f"{HERE}/a b", f"{HERE}//a", f"{HERE}/", f"{HERE}/é", f"{HERE}/a.b"])
def test_paths_that_are_none(store: Store, path: str) -> None:
    for call in (store.read, store.list, store.remove, lambda p: store.write(p, "")):
        with pytest.raises(StoreError, match="EINVAL"):
            call(path)


def test_a_value_has_its_limit(store: Store) -> None:
    path = f"{HERE}/big"
    room = 4096 - len(path) - 1
    with pytest.raises(StoreError, match="E2BIG"):
        store.write(path, "x" * (room + 1))
    assert store.read(path) is None
    store.write(path, "short")
    assert store.read(path) == "short"


def test_a_transaction_is_there_at_once_or_not_at_all(store: Store) -> None:
    store.write(f"{HERE}/old/a", "1")

    def change(view: Nodes) -> str | None:
        view.remove(f"{HERE}/old")
        view.write(f"{HERE}/new/a", "2")
        assert view.list(HERE) == ["new"]
        assert view.read(f"{HERE}/old/a") is None
        assert (store.read(f"{HERE}/old/a"), store.list(HERE)) == ("1", ["old"]), "outside nothing has changed yet"
        return view.read(f"{HERE}/new/a")

    assert store.atomically(change) == "2"
    assert (store.list(HERE), store.read(f"{HERE}/new/a")) == (["new"], "2")


@pytest.mark.parametrize("kind", [ValueError, StoreError, KeyboardInterrupt])
def test_a_transaction_that_raises_leaves_nothing(store: Store, kind: type[BaseException]) -> None:
    store.write(f"{HERE}/a", "1")

    def change(view: Nodes) -> None:
        view.write(f"{HERE}/b", "2")
        view.remove(f"{HERE}/a")
        raise kind("no")

    with pytest.raises(kind):
        store.atomically(change)
    assert store.list(HERE) == ["a"]


@pytest.mark.parametrize("look", ["read", "list", "absent"])
def test_a_transaction_is_tried_again_when_what_it_read_has_changed(store: Store, look: str) -> None:
    store.write(f"{HERE}/a/b", "1")
    seen = []

    def change(view: Nodes) -> None:
        path = f"{HERE}/a/{'c' if look == 'absent' else 'b'}"
        seen.append(view.list(f"{HERE}/a") if look == "list" else view.read(path))
        if len(seen) == 1:
            store.write(path, "2")
            if look == "list":
                store.write(f"{HERE}/a/d", "")
        view.write(f"{HERE}/result", str(len(seen)))

    store.atomically(change)
    assert seen == {"read": ["1", "2"], "list": [["b"], ["b", "d"]], "absent": [None, "2"]}[look]
    assert store.read(f"{HERE}/result") == "2"


def test_a_transaction_does_not_mind_what_it_has_not_read(store: Store) -> None:
    store.write(f"{HERE}/a", "1")
    store.write(f"{HERE}/elsewhere/a", "1")
    calls = []

    def change(view: Nodes) -> None:
        calls.append(view.read(f"{HERE}/a"))
        store.write(f"{HERE}/elsewhere/a", "2")

    store.atomically(change)
    assert calls == ["1"]
    assert store.read(f"{HERE}/elsewhere/a") == "2"
