# SPDX-License-Identifier: LGPL-2.1-only
"""A host with 200 granted domains: Xen's dump, which has them all, is asked for once."""

import contextlib

import pytest

from xlplug.commands import metrics, show
from xlplug.config.domain import DomainConfig
from xlplug.execute import grants
from xlplug.model.addr import Domid
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.occasion import BY_HAND, Who
from xlplug.model.rangeset import Range
from xlplug.plan import build
from xlplug.xen import ctrl
from xlplug.xen import store as xen_store
from xlplug.xen.in_memory import MemStore, MemXen

COUNT = 200


class Counted(MemXen):
    """The hypervisor in memory, and how many dumps it has made."""

    dumps = 0

    def held(self) -> dict[int, HeldRights]:
        self.dumps += 1
        return super().held()


@pytest.fixture
def granted() -> tuple[Counted, MemStore]:
    xen, store = Counted((4, 17)), MemStore()
    config = DomainConfig(type="hvm", ioports=(Range(0x2F8, 0x300),))
    host = HostSnapshot(name="h")
    for domid in range(1, COUNT + 1):
        xen.add_domain(DomainInfo(domid, nr_pages=1000, max_pages=1256, uuid=f"u{domid}"))
        store.write(f"/local/domain/{domid}/name", f"g{domid}")
        plan = build(config, host, Who(Domid(domid)), BY_HAND)
        grants.grant(plan, xen, store, lambda line: None)
    xen.dumps = 0
    return xen, store


def test_show(
    granted: tuple[Counted, MemStore], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    xen, store = granted
    monkeypatch.setattr(ctrl, "XenCtrl", lambda: contextlib.nullcontext(xen))
    monkeypatch.setattr(xen_store, "XenStore", lambda: contextlib.nullcontext(store))
    assert show.show(None, "text") == 0
    assert capsys.readouterr().out.count("2f8-2ff") >= COUNT
    assert xen.dumps == 1


def test_metrics(granted: tuple[Counted, MemStore]) -> None:
    xen, store = granted
    assert f'xlplug_domains{{state="applied"}} {COUNT}\n' in "".join(metrics.collect(xen, store, {}, hooked=True))
    assert xen.dumps == 1
