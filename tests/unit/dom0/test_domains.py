# SPDX-License-Identifier: LGPL-2.1-only
"""Which domains belong together, according to xenstore; and that every path of it is in one module."""

import ast
from pathlib import Path

import pytest

import xlplug
from tests import sources
from xlplug.commands.common import find_domain
from xlplug.dom0 import nodes
from xlplug.dom0.domains import guests, stubdom_of, target_and_stubdom
from xlplug.model.errors import Refused
from xlplug.xen.in_memory import MemStore, MemXen

ROOT = Path(xlplug.__file__).parent


@pytest.fixture
def store() -> MemStore:
    store = MemStore()
    store.write(nodes.device_model_domid(7), "8")
    store.write(nodes.target(8), "7")
    return store


def test_a_stubdomain_names_its_guest(store: MemStore) -> None:
    assert stubdom_of(7, store) == 8
    assert target_and_stubdom(8, store) == (7, 8)
    assert target_and_stubdom(7, store) == (7, None)


@pytest.mark.parametrize("target", [None, "9", "", "07x", "\u0667", "7" * 4000])
def test_a_domain_that_serves_somebody_else_is_not_its_stubdomain(store: MemStore, target: str | None) -> None:
    """Its number may be another guest's by now: a right for the stubdomain would go there."""
    store.remove(nodes.target(8))
    if target is not None:
        store.write(nodes.target(8), target)
    assert stubdom_of(7, store) is None


@pytest.mark.parametrize("number", ["0", "", "8 ", "-8", "9" * 4000])
def test_dom0_runs_it(store: MemStore, number: str) -> None:
    store.write(nodes.device_model_domid(7), number)
    assert stubdom_of(7, store) is None


def test_every_path_of_xenstore_is_in_one_module() -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ROOT.rglob("*.py")
        if path.name not in ("nodes.py", "_ffi.py")
        for node in sources.nodes(path)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("/local/", "/libxl/", "/vm/"))
    ]
    assert not elsewhere


def test_guests_are_not_dom0_and_not_stubdomains() -> None:
    store = MemStore()
    for domid, name in ((0, "Domain-0"), (12, "web"), (7, "gpu"), (8, "gpu-dm")):
        store.write(f"/local/domain/{domid}/name", name)
    store.write("/local/domain/8/target", "7")
    store.write("/local/domain/9/memory", "")  # libxl has not named it yet
    assert guests(store) == [(7, "gpu"), (9, ""), (12, "web")]


@pytest.mark.parametrize(
    ("name", "advice"), [("gpu", "see 'xl list'"), ("gpu.cfg", "not its config"), ("/etc/xen/gpu", "not its config")]
)
def test_a_config_is_not_a_domain(store: MemStore, name: str, advice: str) -> None:
    with pytest.raises(Refused, match=f"domain '{name}' does not exist.*{advice}"):
        find_domain(name, MemXen(), store)
