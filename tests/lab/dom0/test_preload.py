# SPDX-License-Identifier: LGPL-2.1-only
"""The preload library with stock QEMU, in dom0 and in a Linux stubdomain: no page is lost, and QEMU makes no call.

What QEMU asks for is told by the library (XLPLUG_PRELOAD_TRACE); what has become of it, by Xen's own count of pages.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import discard, journal, sh
from tests.lab.dom0.hooked import FRONT_END, LIBRARY, domid_of, installed, qemu_log, xl
from tests.lab.dom0.test_physmap import pages
from tests.lab.dom0.test_stubdom import ALIVE, display  # noqa: F401 - a fixture
from tests.lab.dom0.vgaguest import Card, running
from xlplug.hook.device_model import default_path
from xlplug.xen.lib import running_version

#: Video RAM, its BIOS and two NICs: four blocks.
PLAIN = 'type="hvm"\nmemory=64\nvcpus=1\nvnc=0\nvga="stdvga"\ndevice_model_args_hvm=["-device","e1000","-device","rtl8139"]\n'
BLOCKS = [("0x3000", "0x1000"), ("0x4000", "0x10"), ("0x4040", "0x40"), ("0x4080", "0x40")]
KEY = "xlplug_preload=1\n"
TRACE = {"XLPLUG_PRELOAD_TRACE": "1"}


@pytest.fixture(scope="module", autouse=True)
def hook() -> Iterator[None]:
    yield from installed(library=True)


@pytest.fixture
def without_library() -> Iterator[None]:
    Path(LIBRARY).unlink()
    yield
    shutil.copy("/stubdom/libxlplug-preload.so", LIBRARY)


class Created:
    """A guest, made and seen: its pages, QEMU's log, and what the library says that QEMU asked for."""

    def __init__(self, path: Path, text: str, *, front_end: bool = True) -> None:
        path.write_text(f'name="{path.stem}"\n{text}')
        try:
            done = xl("create", "-p", str(path), front_end=front_end, **TRACE)
            assert done.returncode == 0, f"{done.stderr} {qemu_log(path.stem)}"
            self.stderr = done.stderr
            self.domid = domid_of(path.stem) or 0
            self.pages = pages(self.domid)
            self.journal = journal(self.domid)
            self.told = sh("xenstore-ls", f"/local/domain/0/xlplug/{self.domid}").stdout
            self.log = others(qemu_log(path.stem))
            self.asked = asked(path.stem)
        finally:
            discard(path.stem)


def others(log: list[str]) -> list[str]:
    """What QEMU says without the trace, and without the warning that a NIC of ``device_model_args`` has no network."""
    return [line for line in log if not line.startswith("xlplug-preload: ") and not line.endswith(" has no peer")]


def asked(name: str) -> list[tuple[str, str, str]]:
    """(first gfn, pages, answer) of each call of QEMU's to populate."""
    text = Path(f"/var/log/xen/qemu-dm-{name}.log").read_text()
    return re.findall(r"^xlplug-preload: populate domid=\d+ first=(\w+) nr=(\w+) order=0: (.*)$", text, re.MULTILINE)


def test_no_page_is_lost(tmp_path: Path) -> None:
    stock = Created(tmp_path / "stock.cfg", PLAIN, front_end=False)
    ours = Created(tmp_path / "ours.cfg", PLAIN + KEY)
    assert ours.pages == stock.pages
    assert ours.asked == [(*block, "done before") for block in BLOCKS]
    assert ours.journal.count("populate_physmap") == len(BLOCKS)
    assert ours.told == 'populated = "3000-400f,4040-40bf"\n'
    assert ours.log == stock.log == []
    assert stock.asked == []


def test_stock_qemu_alone_would_lose_them(tmp_path: Path) -> None:
    """What the library is for: the config says that it is there, and a device model of one's own drops it."""
    model = tmp_path / "device-model"
    model.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec {default_path(running_version()[:2])} "$@"\n')
    model.chmod(0o755)
    override = f'device_model_override="{model}"\ndevice_model_version="qemu-xen"\n'
    path = tmp_path / "alone.cfg"
    path.write_text(f'name="alone"\n{PLAIN}{KEY}{override}')
    try:
        assert xl("create", "-p", str(path)).returncode != 0
        assert any("failed to populate ram" in line for line in qemu_log("alone")), (
            "max_pages is what is needed, no more"
        )
    finally:
        discard("alone")


def test_a_device_model_that_asks_for_more(tmp_path: Path) -> None:
    """Its own script adds a card that no plan can know of."""
    model = tmp_path / "device-model"
    model.write_text(f'#!/bin/sh\nexec {default_path(running_version()[:2])} "$@" -device e1000e\n')
    model.chmod(0o755)
    text = f'{PLAIN}device_model_override="{model}"\ndevice_model_version="qemu-xen"\n'
    stock = Created(tmp_path / "fewer.cfg", text, front_end=False)
    ours = Created(tmp_path / "more.cfg", text + KEY)
    assert ours.asked == [*((*block, "done before") for block in BLOCKS), ("0x40c0", "0x40", "passed on")]
    assert ours.pages == stock.pages
    assert ours.log == []


@pytest.mark.usefixtures("without_library")
def test_without_the_library_nothing_is_populated(tmp_path: Path) -> None:
    stock = Created(tmp_path / "bare.cfg", PLAIN, front_end=False)
    ours = Created(tmp_path / "lacking.cfg", PLAIN + KEY)
    assert ours.pages == stock.pages
    assert (ours.journal, ours.told, ours.log) == ("", "", [])
    note = "video RAM and option ROMs are left to the device model: libxlplug-preload.so is not installed"
    assert ours.stderr.count(f"xlplug: note: {note}") == 1
    path = tmp_path / "lacking.cfg"
    assert note in sh("xlplug", "plan", str(path)).stdout


def test_without_the_key_the_library_is_not_loaded(tmp_path: Path) -> None:
    ours = Created(tmp_path / "keyless.cfg", PLAIN)
    assert (ours.asked, ours.journal, ours.log) == ([], "", [])


def test_a_restored_guest_has_what_it_had(tmp_path: Path) -> None:
    path, image = tmp_path / "kept.cfg", tmp_path / "image"
    path.write_text(f'name="kept"\n{PLAIN}{KEY}')
    try:
        done = xl("create", str(path), **TRACE)
        assert done.returncode == 0, done.stderr
        before = pages(domid_of("kept") or 0)
        done = sh("xl", "save", "kept", str(image))
        assert done.returncode == 0, done.stderr
        done = xl("restore", "-p", str(path), str(image), **TRACE)
        assert done.returncode == 0, done.stderr
        domid = domid_of("kept") or 0
        assert pages(domid) == before
        assert asked("kept") == [], "nothing was asked for, and nothing answered"
        assert "populate" not in journal(domid)
        assert sh("xenstore-ls", f"/local/domain/0/xlplug/{domid}").stdout == ""
        assert sh("pgrep", "-f", f"xen-domid {domid} .*-incoming").returncode == 0
    finally:
        discard("kept")


def test_in_a_stubdomain(tmp_path: Path, display: Card) -> None:  # noqa: F811
    """Passthrough, and an emulated card with video RAM besides."""
    extra = 'vga="stdvga"\ndevice_model_args_hvm=["-device","e1000"]\n'
    preload = 'stubdomain_cmdline="console=hvc0 quiet xlplug.preload=trace"\n'
    found = []
    for name, path, more in (("stock", None, ""), ("hooked", str(Path(FRONT_END).parent), preload + KEY)):
        with running(tmp_path, f"{name}-card", path=path, extra=extra + more) as guest:
            found.append(pages(guest.domid))
            if name == "hooked":
                blocks = [*BLOCKS[:2], ("0x4040", "0x40")]
                assert asked("hooked-card") == [(*block, "done before") for block in blocks]
                assert others(guest.log) == []
                assert guest.said == ALIVE
                told = sh("xenstore-ls", "-f", f"/local/domain/{guest.stubdom}/xlplug").stdout
                assert f"xlplug/{guest.domid}/populated = " in told
    assert found[0] == found[1]


def test_iomem_that_is_published_is_granted_without_a_call(tmp_path: Path) -> None:
    """The real libxenctrl and libxenstore, of which one asks Xen what a stubdomain may not."""
    version = ".".join(map(str, running_version()[:2]))
    store = next(Path("/usr/lib/x86_64-linux-gnu").glob("libxenstore.so.[34]*"))
    script = tmp_path / "ask.py"
    script.write_text(
        "import ctypes, os, sys\n"
        "xen = ctypes.CDLL(None, use_errno=True)\n"
        "xen.xc_interface_open.restype = ctypes.c_void_p\n"
        "xch = ctypes.c_void_p(xen.xc_interface_open(None, None, 0))\n"
        "words = [int(word, 16) for word in sys.argv[1:]]\n"
        "call = xen.xc_domain_iomem_permission\n"
        "call.argtypes = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_uint8\n"
        "print(call(xch, *words))\n"
    )
    path = tmp_path / "io.cfg"
    path.write_text(f'name="io"\n{PLAIN}')
    assert sh("xl", "create", "-p", str(path)).returncode == 0
    try:
        domid = domid_of("io") or 0
        node = f"/local/domain/0/xlplug/{domid}/iomem"
        preload = f"LD_PRELOAD={LIBRARY}:libxenctrl.so.{version}:{store}"

        def ask(first: int, nr: int, allow: int) -> tuple[str, str]:
            done = sh(
                "env",
                preload,
                *(f"{k}={v}" for k, v in TRACE.items()),
                "python3",
                str(script),
                f"{domid:x}",
                f"{first:x}",
                f"{nr:x}",
                str(allow),
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip(), done.stderr.rpartition(": ")[2].strip()

        def held() -> str:
            return str(rights(domid))

        before = held()
        assert ask(0xFD000, 2, 1) == ("0", "passed on")
        granted = held()
        assert granted != before
        assert ask(0xFD000, 2, 0) == ("0", "passed on")
        assert held() == before
        assert sh("xenstore-write", node, "fd000-fd001").returncode == 0
        assert ask(0xFD000, 2, 1) == ("0", "done before")
        assert held() == before, "no call was made"
        assert ask(0xFD000, 3, 1) == ("0", "passed on")
        assert held() != before
        sh("xenstore-rm", f"/local/domain/0/xlplug/{domid}")
    finally:
        discard("io")


def rights(domid: int) -> object:
    from tests.lab.dom0.conftest import dump

    return dump()[domid].memory
