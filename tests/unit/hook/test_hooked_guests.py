# SPDX-License-Identifier: LGPL-2.1-only
"""Which guests would not come back from a reboot without the wrapper."""

import json
from pathlib import Path

import pytest

from xlplug.dom0 import domains
from xlplug.hook import hooked_guests, install
from xlplug.model.errors import EXIT_REFUSED, HostError, NotOnXenError, Refused, XenUnavailableError
from xlplug.model.hypervisor import DomainInfo
from xlplug.xen.in_memory import MemStore, MemXen

WRAPPER = "/usr/local/lib/xlplug/device-model"


def record(override: str | None) -> str:
    return json.dumps({"c_info": {"type": "hvm", "name": "g"}, "b_info": {"device_model": override, "type.hvm": {}}})


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemXen, MemStore]:
    """Guests 1 (hooked), 2 (not), 3 (by another path), 4 with stubdomain 5, 6 (being created), 7 (no record)."""
    monkeypatch.setattr(domains, "_USERDATA", str(tmp_path))
    (tmp_path / "link").symlink_to(WRAPPER)
    xen, store = MemXen((4, 17)), MemStore()
    overrides = {1: WRAPPER, 2: None, 3: str(tmp_path / "link"), 4: WRAPPER}
    for domid in range(1, 8):
        xen.add_domain(DomainInfo(domid, uuid=f"u{domid}"))
        store.write(f"/local/domain/{domid}/name", f"g{domid}")
        if domid in overrides:
            (tmp_path / f"userdata-d.{domid}.u{domid}.libxl-json").write_text(record(overrides[domid]))
    store.write("/local/domain/5/target", "4")
    store.write("/libxl/6/xlplug/state", "applied")
    return xen, store


def test_the_guests_that_need_it(host: tuple[MemXen, MemStore]) -> None:
    assert hooked_guests.using(WRAPPER, *host) == ["g1 (domain 1)", "g3 (domain 3)", "g4 (domain 4)", "g6 (domain 6)"]
    assert hooked_guests.using("/opt/other", *host) == ["g6 (domain 6)"]


class Opened:
    """`XenCtrl` or `XenStore`, opened in a ``with``."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self) -> "Opened":
        return self

    def __enter__(self) -> object:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def __exit__(self, *error: object) -> None:
        pass


def test_uninstalling_under_them_is_refused(
    host: tuple[MemXen, MemStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "prefix"
    wrapper = prefix / "lib/xlplug/device-model"
    install.install(str(prefix))
    (tmp_path / "userdata-d.2.u2.libxl-json").write_text(record(str(wrapper)))
    host[1].remove("/libxl/6/xlplug")
    monkeypatch.setattr("xlplug.xen.ctrl.XenCtrl", Opened(host[0]))
    monkeypatch.setattr("xlplug.xen.store.XenStore", Opened(host[1]))
    with pytest.raises(Refused) as refused:
        install.uninstall(str(prefix))
    assert str(refused.value) == (
        f"refused: without {wrapper} these would not come back from a reboot of their own: g2 (domain 2); "
        "shut them down first, or give --force [XLP616]"
    )
    assert refused.value.exit_code == EXIT_REFUSED
    assert wrapper.exists()
    assert install.uninstall(str(prefix), force=True) == 0
    assert not prefix.exists()
    capsys.readouterr()


def test_a_xen_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlplug.xen.ctrl.XenCtrl", Opened(XenUnavailableError("no library", hint="install it")))
    with pytest.raises(HostError, match="cannot be found out: no library; install it, or give --force"):
        hooked_guests.require_none(WRAPPER)
    monkeypatch.setattr("xlplug.xen.ctrl.XenCtrl", Opened(NotOnXenError("not on Xen")))
    hooked_guests.require_none(WRAPPER)
