# SPDX-License-Identifier: LGPL-2.1-only
"""What every xenstore must do, the real and the one in memory alike."""

from collections.abc import Iterator

import pytest

from tests.contract.conftest import World
from xlplug.model.errors import StoreError
from xlplug.model.hypervisor import Store

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
