# SPDX-License-Identifier: LGPL-2.1-only
"""A configuration that travels to the wrapper: the same value arrives, or none, and then the text is parsed."""

import marshal
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from xlplug.config import domain
from xlplug.config.domain import DomainConfig
from xlplug.dom0 import frozen
from xlplug.dom0.find_config import from_handover, parse
from xlplug.dom0.handover import Handover

ROOT = Path(__file__).parents[3]
FULL = b"""name="g"
type="hvm"
memory=64
vga="none"
gfx_passthru="igd"
pci=["00:02.0,permissive=1", "00:1f.*", "name=x"]
iomem=["a0,20@100"]
ioports=["2f8-2ff"]
irqs=["5"]
vif=["model=e1000"]
device_model_args=["-x", "\xc3\xa9\xff"]
videoram=[]
"""


@pytest.mark.parametrize(
    "data", [FULL, b"", *(path.read_bytes() for path in sorted(ROOT.glob("tests/recorded/domains/*/domain.cfg")))]
)
def test_the_same_arrives(data: bytes) -> None:
    config = parse(data, "g.cfg")
    thawed = frozen.thaw(frozen.freeze(config))
    assert thawed == config
    assert repr(thawed) == repr(config)  # with the kinds of all its parts
    assert from_handover(Handover(b"is not read", "g.cfg", parsed=frozen.freeze(config))) == config


def test_every_kind_of_part_is_known() -> None:
    """A new one would be thawed as a plain tuple, or not at all."""

    def kinds(hint: object) -> set[str]:
        inner = set().union(*(kinds(part) for part in get_args(hint)))
        return inner | kinds_of(hint) if hasattr(hint, "_fields") else inner

    def kinds_of(kind: object) -> set[str]:
        return {kind.__name__}.union(*(kinds(hint) for hint in get_type_hints(kind).values()))  # type: ignore[attr-defined]

    assert kinds(DomainConfig) == set(frozen._KINDS)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"garbage", marshal.dumps(5), marshal.dumps((frozen._MADE_BY, ("Nobody", 1))), marshal.dumps((frozen._MADE_BY, 5)),
     marshal.dumps(("another", ("DomainConfig",))), frozen.freeze(DomainConfig())[:-3]],
)  # fmt: skip
def test_anything_else_is_parsed_again(data: bytes) -> None:
    assert frozen.thaw(data) is None
    assert from_handover(Handover(FULL, "g.cfg", ("memory=96",), parsed=data)) == parse(FULL, "g.cfg", ("memory=96",))


def test_another_xlplugs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    data = frozen.freeze(DomainConfig())
    monkeypatch.setattr(frozen, "_MADE_BY", "a later one")
    assert frozen.thaw(data) is None
    assert domain.DomainConfig() == DomainConfig()
