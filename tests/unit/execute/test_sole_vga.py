# SPDX-License-Identifier: LGPL-2.1-only
"""Whether another domain has the VGA ranges: by its journal, or because its QEMU in dom0 maps them by itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xlplug.config.domain import DomainConfig
from xlplug.dom0 import domains, pci
from xlplug.execute.journal import APPLIED, REVOKED, Entry, Journal
from xlplug.execute.sole_vga import require_sole_vga, tried_in_vain
from xlplug.model.addr import Domid
from xlplug.model.errors import Refused
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo
from xlplug.model.occasion import BY_HAND, Who
from xlplug.plan import Plan, build
from xlplug.xen.in_memory import MemStore, MemXen

OTHER = "0000:03:00.0"
SEVEN = Who(Domid(7))
IGD = 'gfx_passthru="igd"\npci=["00:02.0"]\n'


class Dom0:
    """Domain 7 is granted; domain 9 has another display."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.xen, self.store = MemXen((4, 17)), MemStore()
        for domid in (7, 9):
            self.xen.add_domain(DomainInfo(domid, uuid=f"u{domid}"))
            self.store.write(f"/local/domain/{domid}/name", f"g{domid}")
        self.device()
        self.config()
        self.assigned(9)

    def assigned(self, domid: int | str) -> None:
        self.store.write(f"/local/domain/0/backend/pci/{domid}/0/dev-0", OTHER)

    def device(self, class_code: int = 0x030000) -> None:
        path = self.folder / "devices" / OTHER
        path.mkdir(parents=True, exist_ok=True)
        files = {"vendor": "0x1002", "device": "0x73df", "class": hex(class_code), "resource": "", "config": "\0" * 64}
        for name, text in files.items():
            (path / name).write_text(text)

    def config(self, *, gfx: bool = True, stubdom: bool = False) -> None:
        """libxl's record of domain 9."""
        build_info = {
            "type.hvm": {"gfx_passthru": str(gfx), "gfx_passthru_kind": "igd"},
            "device_model_stubdomain": str(stubdom),
        }
        text = json.dumps({"c_info": {"type": "hvm", "name": "g9"}, "b_info": build_info})
        (self.folder / "userdata-d.9.u9.libxl-json").write_text(text)


@pytest.fixture
def dom0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dom0:
    monkeypatch.setattr(pci, "SYS_PCI", str(tmp_path / "devices"))
    monkeypatch.setattr(domains, "_USERDATA", str(tmp_path))
    return Dom0(tmp_path)


@pytest.fixture
def make(host: Callable[[str], HostSnapshot], config: Callable[[str], DomainConfig]) -> Callable[..., Plan]:
    def made(text: str = IGD, *, owner: int | None = None, who: Who = SEVEN) -> Plan:
        laptop = host("igd-laptop")
        devices = tuple(d._replace(owner=None if owner is None else Domid(owner)) for d in laptop.devices)
        return build(config(text), laptop._replace(devices=devices), who, BY_HAND)

    return made


def test_a_display_of_a_qemu_in_dom0_is_refused(dom0: Dom0, make: Callable[..., Plan]) -> None:
    with pytest.raises(Refused, match=r"domain 9 has the display 0000:03:00\.0 with gfx_passthru"):
        require_sole_vga(make(), dom0.xen, dom0.store)
    require_sole_vga(make('ioports=["2f8-2ff"]\n'), dom0.xen, dom0.store)


def no_display(dom0: Dom0) -> None:
    dom0.device(0x020000)


def vanished(dom0: Dom0) -> None:
    for file in (dom0.folder / "devices" / OTHER).iterdir():
        file.unlink()
    (dom0.folder / "devices" / OTHER).rmdir()


def revoked(dom0: Dom0) -> None:
    Journal(dom0.store, 9, "u9").write(Entry(REVOKED))


def dying(dom0: Dom0) -> None:
    dom0.xen.add_domain(DomainInfo(9, uuid="u9", dying=True))


@pytest.mark.parametrize(
    "change",
    [
        no_display,
        vanished,
        revoked,
        dying,
        lambda dom0: dom0.config(gfx=False),
        lambda dom0: dom0.config(stubdom=True),
        lambda dom0: (dom0.folder / "userdata-d.9.u9.libxl-json").unlink(),
        lambda dom0: dom0.xen._domains.pop(9),
        lambda dom0: dom0.xen.add_domain(DomainInfo(9, uuid="another")),
    ],
)
def test_whose_device_model_does_not_map_them(
    dom0: Dom0, make: Callable[..., Plan], change: Callable[[Dom0], object]
) -> None:
    change(dom0)
    require_sole_vga(make(), dom0.xen, dom0.store)


@pytest.mark.parametrize("state", [APPLIED, ""])
def test_a_record_that_is_not_of_a_revoke_changes_nothing(dom0: Dom0, make: Callable[..., Plan], state: str) -> None:
    if state:
        opregion = next(s for s in make().steps if "OpRegion" in s.reason)
        Journal(dom0.store, 9, "u9").write(Entry(state, (opregion._replace(domid=Domid(9)),)))
    with pytest.raises(Refused, match="domain 9 has the display"):
        require_sole_vga(make(), dom0.xen, dom0.store)


def test_the_domain_itself_and_names_that_are_no_numbers(dom0: Dom0, make: Callable[..., Plan]) -> None:
    dom0.store.remove("/local/domain/0/backend/pci/9")
    ours = tuple(s for s in make().steps)
    Journal(dom0.store, 7, "u7").write(Entry(APPLIED, ours))
    for name in ("x", "7", "0"):
        dom0.store.write(f"/tool/xlplug-vga/{name}", "")
    require_sole_vga(make(), dom0.xen, dom0.store)


@pytest.mark.parametrize(
    ("version", "stubdom", "owner", "granted", "expected"),
    [
        ((4, 17), None, 7, False, False),
        ((4, 22), None, 7, False, False),
        ((4, 23), None, 7, False, True),
        ((4, 23), None, 7, True, False),
        ((4, 17), 8, 7, False, True),
        ((4, 17), 8, 7, True, False),
        ((4, 23), 8, 7, False, True),
        ((4, 23), None, None, False, False),
    ],
)
def test_whether_the_device_model_tried_in_vain(
    make: Callable[..., Plan],
    version: tuple[int, int],
    stubdom: int | None,
    owner: int | None,
    *,
    granted: bool,
    expected: bool,
) -> None:
    xen, store = MemXen(version), MemStore()
    xen.add_domain(DomainInfo(7, uuid="u7"))
    store.write("/local/domain/7/name", "g")
    plan = make(owner=owner, who=Who(Domid(7), None if stubdom is None else Domid(stubdom)))
    if granted:
        Journal(store, 7, "u7").write(Entry(APPLIED, plan.steps))
    assert tried_in_vain(plan, xen, store) is expected


def test_without_a_domain_nothing_was_tried(make: Callable[..., Plan]) -> None:
    xen, store = MemXen((4, 23)), MemStore()
    assert not tried_in_vain(make(owner=7, who=Who()), xen, store)
    assert not tried_in_vain(make(owner=7), xen, store)
