# SPDX-License-Identifier: LGPL-2.1-only
"""Guest RAM: what QEMU populates against what we predict; populating, undoing and its cost on the real Xen."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import Guests, discard, journal, sh
from tests.lab.dom0.hooked import installed, qemu_log, until, xl
from tests.lab.dom0.vgaguest import STUBDOM
from xlplug.config import from_xl, language
from xlplug.execute import grants
from xlplug.execute.populate import populate, release
from xlplug.hook.device_model import default_path
from xlplug.model.addr import Domid
from xlplug.model.errors import ApplyError, XenError
from xlplug.model.steps import POPULATE_PHYSMAP, TARGET, Room, Step
from xlplug.physmap import plan_physmap, predict
from xlplug.plan import Plan
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.lib import running_version
from xlplug.xen.store import XenStore

TRACE = '"-trace","xen_ram_alloc"'
NICS = ("e1000", "e1000e", "i82551", "i82557b", "i82559er", "ne2k_pci", "pcnet", "rtl8139", "virtio-net-pci", "vmxnet3")


def config(text: str, *devices: str) -> str:
    words = "".join(f',"-device","{device}"' for device in devices)
    return f'type="hvm"\nvcpus=1\nvnc=0\n{text}\ndevice_model_args_hvm=[{TRACE}{words}]\n'


#: maxmem above memory: a guest of 4 GiB, for QEMU, that needs no 4 GiB here.
CONFIGS = {
    "stdvga": config('memory=64\nvga="stdvga"'),
    "stdvga and two NICs": config('memory=64\nvga="stdvga"', "e1000", "rtl8139"),
    "cirrus of 16 MiB": config('memory=64\nvga="cirrus"\nvideoram=16'),
    "nothing": config('memory=64\nvga="none"'),
    "every NIC": config('memory=64\nmaxmem=80\nvga="none"\nvideoram=8', *NICS),
    "qxl": config('memory=256\nmaxmem=1024\nvga="qxl"'),
    "ends with the hole": config('memory=256\nmaxmem=3856\nvga="stdvga"', "e1000"),
    "one more": config('memory=256\nmaxmem=3857\nvga="stdvga"', "e1000"),
    "4 GiB": config('memory=256\nmaxmem=4096\nvga="stdvga"'),
    "4 GiB, a large hole, a NIC": config('memory=256\nmaxmem=4096\nmmio_hole=2560\nvga="stdvga"', "e1000"),
}


@pytest.fixture(scope="module")
def xen() -> Iterator[XenCtrl]:
    with XenCtrl() as handle:
        yield handle


@pytest.fixture(scope="module")
def store() -> Iterator[XenStore]:
    with XenStore() as handle:
        yield handle


def pages(domid: int) -> tuple[int, int]:
    """nr_pages and max_pages, from Xen's own dump and not through our bindings."""
    assert sh("xl", "debug-keys", "q").returncode == 0
    return pages_in(sh("xl", "dmesg").stdout, domid)


def pages_in(text: str, domid: int) -> tuple[int, int]:
    _, _, mine = text.rpartition(f"General information for domain {domid}:")
    found = re.search(r"nr_pages=(\d+) .*?max_pages=(\d+)", mine, re.DOTALL)
    assert found is not None, mine[:500]
    return int(found[1]), int(found[2])


def populated_by_qemu(name: str) -> list[tuple[int, int]]:
    """(gfn, pages) of each block, from QEMU's trace."""
    found = re.findall(r"xen_ram_alloc requested: 0x([0-9a-f]+), size 0x([0-9a-f]+)", "\n".join(qemu_log(name)))
    return [(int(at, 16) >> 12, -(-int(size, 16) >> 12)) for at, size in found]


@pytest.mark.parametrize("which", CONFIGS)
def test_prediction_is_what_qemu_does(tmp_path: Path, which: str) -> None:
    name = f"ram-{'-'.join(re.findall(r'[a-z0-9]+', which.lower()))}"
    path = tmp_path / "ram.cfg"
    path.write_text(f'name="{name}"\n{CONFIGS[which]}')
    blocks, unknown = predict(from_xl.from_settings(language.parse(path.read_bytes())))
    assert unknown == ""
    try:
        done = sh("xl", "create", "-p", str(path))
        assert done.returncode == 0, f"{done.stderr} {qemu_log(name)}"
        assert populated_by_qemu(name) == [(b.first, b.nr) for b in blocks]
    finally:
        discard(name)


@pytest.mark.parametrize(
    "text",
    [config('memory=64\nvga="stdvga"\nvideoram=24'), config('memory=64\nvga="stdvga"', *["e1000"] * 5)],
    ids=["24 MiB are 32", "five NICs"],
)
def test_stock_qemu_finds_no_room_for_what_libxl_did_not_count(tmp_path: Path, text: str) -> None:
    """The guest cannot be created, where we raise its limit."""
    path = tmp_path / "odd.cfg"
    path.write_text(f'name="odd{len(text)}"\n{text}')
    blocks, _ = predict(from_xl.from_settings(language.parse(path.read_bytes())))
    assert sh("xl", "create", "-p", str(path)).returncode != 0
    seen = populated_by_qemu(f"odd{len(text)}")
    assert seen == [(b.first, b.nr) for b in blocks][: len(seen)]
    assert any("failed to populate ram" in line for line in qemu_log(f"odd{len(text)}"))


# populating, by ourselves ---------------------------------------------------------------------------------------------


@pytest.fixture
def guest(guests: Guests, store: XenStore) -> tuple[int, int]:
    """A paused guest without video RAM, and a domain that has never run, to stand for its stubdomain."""
    target, stubdom = guests.make()[0], guests.make()[0]
    store.write(f"/local/domain/{stubdom}/target", str(target))
    return target, stubdom


def plan(target: int, stubdom: int, text: str = 'vga="stdvga"\nmemory=80\n') -> Plan:
    """Above 64 MiB there is nothing in a guest of ours, so that is where this one's blocks are."""
    vifs = "".join(f'"model={model}",' for model in ("e1000", "rtl8139", "e1000", "rtl8139", "e1000"))
    made = from_xl.from_settings(language.parse(f'type="hvm"\nxlplug_preload=1\n{text}vif=[{vifs}]\n'.encode()))
    physmap = plan_physmap(made, Domid(target), has_stubdom=True, ram_left=None)
    assert not physmap.refusals
    return Plan("lab", "g", Domid(target), Domid(stubdom), has_stubdom=True, steps=physmap.steps, preload=True)


def test_populated_told_once_and_taken_back(guest: tuple[int, int], xen: XenCtrl, store: XenStore) -> None:
    target, stubdom = guest
    before = pages(target)
    needed = (16 << 8) + 16 + 5 * 64
    lines: list[str] = []
    grants.grant(plan(target, stubdom), xen, store, lines.append)
    assert len(lines) == 7
    assert pages(target) == (before[0] + needed,) * 2, "max_pages: just what is needed"
    folder = f"/local/domain/{stubdom}/xlplug/{target}"
    assert sh("xenstore-read", f"{folder}/populated").stdout == "4000-500f,5040-517f\n"
    permissions = sh("xenstore-ls", "-fp", folder).stdout
    assert f"(n0,r{stubdom})" in permissions, "readable for the stubdomain, and no more"
    assert "b" not in re.sub(r".*\(", "(", permissions)
    assert grants.grant(plan(target, stubdom), xen, store, lines.append).done == ()
    assert len(lines) == 7
    assert pages(target) == (before[0] + needed,) * 2, "nothing twice"
    grants.revoke(target, xen, store, lines.append)
    assert pages(target) == before
    assert journal(target) == ""
    assert sh("xenstore-ls", folder).stdout == ""


def test_where_the_device_model_has_run_it_stays(guest: tuple[int, int], xen: XenCtrl, store: XenStore) -> None:
    target, stubdom = guest
    grants.grant(plan(target, stubdom), xen, store, lambda line: None)
    there = pages(target)
    assert sh("xl", "unpause", str(stubdom)).returncode == 0
    assert until(lambda: (info := xen.domain_info(stubdom)) is not None and info.cpu_time > 0)
    lines: list[str] = []
    grants.revoke(target, xen, store, lines.append)
    assert pages(target) == there
    assert all("its device model has it in use" in line for line in lines)


class OutOfMemory(XenCtrl):
    """Lowers the guest's limit before the call of that number, so that the real Xen fails in the midst of it."""

    left = 0
    limit = 0

    def populate_physmap(self, domid: int, gfns: Sequence[int], order: int = 0) -> None:
        self.left -= 1
        if self.left == 0:
            info = self.domain_info(domid)
            assert info is not None
            self.limit = info.max_pages
            self.set_max_mem(domid, 4 * (info.nr_pages + len(gfns) // 2))
        try:
            super().populate_physmap(domid, gfns, order)
        except XenError:
            if order == 0:
                self.set_max_mem(domid, 4 * self.limit)
            raise


@pytest.mark.parametrize("at", [1, 2, 3])
def test_failing_half_way_leaves_everything_as_it_was(guest: tuple[int, int], store: XenStore, at: int) -> None:
    target, stubdom = guest
    before = pages(target)
    with OutOfMemory() as xen:
        xen.left = at
        with pytest.raises(ApplyError, match="EBUSY"):
            grants.grant(plan(target, stubdom), xen, store, lambda line: None)
        assert xen.limit, "the real Xen has failed"
    assert pages(target) == before
    assert journal(target) == ""
    assert sh("xenstore-ls", f"/local/domain/{stubdom}/xlplug").stdout == ""


def test_a_host_without_memory_gives_all_back(guest: tuple[int, int], xen: XenCtrl, guests: Guests) -> None:
    """More than the host has free: first in large pieces, then in small ones, then EBUSY, from the real Xen."""
    target, ballast = guest
    info = xen.domain_info(ballast)
    assert info is not None
    spare = 48 << 8
    weight = (int(sh("xl", "info", "free_memory").stdout) << 8) - spare
    xen.set_max_mem(ballast, 4 * (info.nr_pages + weight))
    for first in range(0x100000, 0x100000 + (weight & ~511), 512):
        xen.populate_physmap(ballast, [first], 9)
    before = pages(target)
    nr = spare + (64 << 8)
    room = Room(before[0], before[1], before[0] + nr)
    made = Step(POPULATE_PHYSMAP, TARGET, Domid(target), 0x8000, nr, before=room)
    with pytest.raises(XenError, match="EBUSY"):
        populate(made, xen)
    assert before[0] + spare // 2 < pages(target)[0] < before[0] + nr
    release(made, xen)
    assert pages(target) == before
    guests.destroy(ballast)


# through the hook -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hook() -> Iterator[None]:
    yield from installed(library=True)


#: A device model that looks at its guest, and gives up, so that nothing is populated after us.  QEMU itself: test_preload.py.
LOOK = """#!/bin/sh
[ "$1" = -xen-domid ] || exec {qemu} "$@"
xl debug-keys q; xl dmesg >{out}/dump
xenstore-ls -f /local/domain/0/xlplug >{out}/told
xenstore-ls -fp /local/domain/$2/xlplug >{out}/told-stubdom
echo "$2" >{out}/domid
exit 1
"""


@pytest.mark.usefixtures("hook")
def test_the_wrapper_populates_for_a_stubdomain_before_it_runs(tmp_path: Path) -> None:
    look = tmp_path / "look"
    look.write_text(LOOK.format(out=tmp_path, qemu=default_path(running_version()[:2])))
    look.chmod(0o755)
    path = tmp_path / "behind.cfg"
    text = f'name="behind"\n{CONFIGS["stdvga"]}{STUBDOM}device_model_override="{look}"\n'
    found = []
    for preload in (0, 1):
        path.write_text(f"{text}xlplug_preload={preload}\n")
        assert xl("create", "-p", str(path)).returncode != 0
        stubdom = int((tmp_path / "domid").read_text())
        dump = (tmp_path / "dump").read_text(errors="replace")
        target = max(int(n) for n in re.findall(r"General information for domain (\d+):", dump) if int(n) < stubdom)
        found.append(pages_in(dump, target))
        told = (tmp_path / "told-stubdom").read_text()
        if preload:
            folder, permissions = f"/local/domain/{stubdom}/xlplug", f"(n0,r{stubdom})"
            assert told == (
                f'{folder}/{target} = ""   {permissions}\n{folder}/{target}/populated = "3000-400f"   {permissions}\n'
            )
        else:
            assert told == ""
    (without, limit), (populated, raised) = found
    assert populated == without + (16 << 8) + 16
    assert raised == limit
