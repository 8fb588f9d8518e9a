# SPDX-License-Identifier: LGPL-2.1-only
"""What the hook costs, counted: modules that are loaded, processes that are started, files that are opened."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import _cffi_backend
import pytest

from tests.abi.oracle import require
from xlplug.dom0.find_config import parse
from xlplug.dom0.firmware import read_firmware
from xlplug.dom0.frozen import freeze
from xlplug.dom0.handover import Handover, offer
from xlplug.model.bdf import Bdf
from xlplug.model.host import HostSnapshot

ROOT = Path(__file__).parents[3]
RECORDED = ROOT / "tests" / "recorded" / "domains" / "igd-laptop-stubdom"
CONFIG = b'name="g"\ntype="hvm"\nmemory=64\nioports=["2f8-2ff"]\n'
#: Each of these takes longer than all that the hook does of its own.
DEAR = {
    "site",
    "typing",
    "getopt",
    "re",
    "enum",
    "collections",
    "functools",
    "signal",
    "contextlib",
    "json",
    "subprocess",
    "click",
    "pyudev",
    "importlib.metadata",
}


def script(folder: Path, name: str) -> Path:
    """A script of hooks/ as ``xlplug hook install`` writes it for this interpreter."""
    text = (ROOT / "hooks" / name).read_text().replace("#!/usr/bin/python3", f"#!{sys.executable}")
    path = folder / name
    path.write_text(text.replace("FOLDERS = []", f"FOLDERS = {[str(ROOT), os.path.dirname(_cffi_backend.__file__)]!r}"))
    path.chmod(0o755)
    return path


def loaded(path: Path, *words: str, **options: object) -> set[str]:
    """The modules that a script of ours loads on its way."""
    command = [sys.executable, "-IS", "-X", "importtime", str(path), *words]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_the_wrapper_loads_no_parser(tmp_path: Path) -> None:
    """Up to where it finds no Xen here: everything but the plan and the grants, which load nothing of Python's own."""
    name, value = offer(Handover(CONFIG, "g.cfg", (), "/bin/true", freeze(parse(CONFIG, "g.cfg"))))
    fd = int(value.split(",")[0])
    modules = loaded(script(tmp_path, "device-model"), "-xen-domid", "7", env={name: value}, pass_fds=(fd,))
    os.close(fd)
    assert "xlplug.xen.ctrl" in modules
    assert modules & DEAR == set()
    values = {"xlplug.config.domain", "xlplug.config.delegated"}
    assert {name for name in modules if name.startswith("xlplug.config.")} == values


def test_nor_do_the_plan_and_the_grants(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(
        f"import sys; sys.path += {[str(ROOT), os.path.dirname(_cffi_backend.__file__)]!r}\n"
        "from xlplug.dom0 import lean_import; lean_import.install()\n"
        "from xlplug.model import lean_typing; lean_typing.install()\n"
        "import xlplug.hook.wrapper, xlplug.plan, xlplug.execute.grants, xlplug.dom0.snapshot, xlplug.dom0.lock\n"
        "import xlplug.dom0.domains, xlplug.dom0.firmware, xlplug.dom0.pci, xlplug.xen.store, xlplug.dom0.running_xl\n"
    )
    modules = loaded(code)
    assert "xlplug.execute.grants" in modules
    assert modules & DEAR == set()
    # What only errors, dumps and host 00:02.0 need.
    unneeded = {"xlplug.xen.mismatch", "xlplug.xen.qdump", "xlplug.hook.device_view", "xlplug.hide_at_boot"}
    assert modules & unneeded == set()


def test_the_front_end_loads_what_reads_a_config(tmp_path: Path) -> None:
    (tmp_path / "off.cfg").write_bytes(CONFIG.replace(b'["2f8-2ff"]', b"[]"))
    (tmp_path / "xl").symlink_to("/bin/true")
    words = ("create", "-p", "--defconfig", "off.cfg", "vcpus=2")
    modules = loaded(script(tmp_path, "xlplug"), *words, env={"PATH": str(tmp_path)})
    assert "xlplug.config.language" in modules
    assert modules & DEAR == set()
    assert not {name for name in modules if name.startswith(("xlplug.xen", "xlplug.plan", "xlplug.execute"))}


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_grant_on_a_recorded_domain_loads_the_plan_and_what_carries_it_out(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    modules = loaded(script(tmp_path, "xlplug"), "grant", "7", "--recorded", str(RECORDED), *words)
    assert "xlplug.execute.grants" in modules
    assert modules & DEAR == set()
    assert len([name for name in modules if name.startswith("xlplug")]) <= 66


def test_help_loads_its_text_only(tmp_path: Path) -> None:
    assert loaded(script(tmp_path, "xlplug"), "--help") & DEAR == set()


def traced(folder: Path, calls: str, command: list[str], **options: object) -> list[str]:
    strace = shutil.which("strace")
    if strace is None:
        require("strace", "strace is not installed")
    log = folder / "strace.log"
    words = [str(strace), "-f", "-qq", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(log), *command]
    subprocess.run(words, check=True, cwd=folder, **options)  # type: ignore[call-overload]
    return log.read_text().splitlines()


def opened(folder: Path, command: list[str], **options: object) -> list[str]:
    """What a process opens with success: paths, as it names them."""
    lines = traced(folder, "openat", command, **options)
    return [line.partition('"')[2].partition('"')[0] for line in lines if not line.endswith(")")]


def test_the_front_end_opens_the_config_and_its_modules_and_no_more(tmp_path: Path) -> None:
    """Counted in system calls as well: a module costs four of these."""
    shutil.copy("/bin/true", tmp_path / "xl")
    (tmp_path / "off.cfg").write_bytes(CONFIG.replace(b'["2f8-2ff"]', b"[]"))
    command = [sys.executable, "-IS", str(script(tmp_path, "xlplug")), "create", "off.cfg"]
    environment = {"PATH": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)  # once, which compiles what is not yet
    bare = [sys.executable, "-IS", "-c", "import os, fcntl"]
    before = {*opened(tmp_path, bare, env=environment), *opened(tmp_path, [str(tmp_path / "xl")], env=environment)}
    mine = [path for path in opened(tmp_path, command, env=environment) if path not in before]
    others = [path for path in mine if not path.startswith(str(ROOT / "xlplug"))]
    # Folders that Python looks through for its own modules, which of them depends on what it has built in.
    libraries = (
        "/lib-dynload",
        "/bisect",
        "/_bisect",
        "/struct",
        "/types",
        "/itertools",
        "/_posixsubprocess",
        "/__pycache__",
    )
    others = [path for path in others if path != str(ROOT) and not any(name in path for name in libraries)]
    assert set(others) == {str(tmp_path / "xlplug"), "off.cfg", str(tmp_path / "xl"), "/proc/self/environ"}
    counts = [len(traced(tmp_path, "all", words, env=environment)) for words in (command, bare)]
    modules = len([path for path in mine if path.endswith(".pyc")])
    assert counts[0] - counts[1] < 250 + 4 * modules, f"{counts}, {modules} modules"


def test_a_creation_that_needs_nothing_starts_grep_and_nothing_else(tmp_path: Path) -> None:
    front = tmp_path / "front" / "xl"
    front.parent.mkdir()
    shutil.copy(ROOT / "hooks" / "xl", front)
    shutil.copy("/bin/true", tmp_path / "xl")
    (tmp_path / "plain.cfg").write_bytes(CONFIG.replace(b"ioports", b"irqs"))
    environment = {"PATH": f"{front.parent}:{tmp_path}:/usr/bin:/bin"}
    lines = traced(tmp_path, "execve", [str(front), "create", "plain.cfg"], env=environment)
    started = [line.partition('"')[2].partition('"')[0] for line in lines if line.endswith("= 0")]
    assert [Path(path).name for path in started] == ["xl", "grep", "xl"]
    assert started[2] == str(tmp_path / "xl")
    reads = [line for line in traced(tmp_path, "read", [str(front), "list"], env=environment) if " = 1" in line]
    assert len([line for line in reads if line.endswith("= 1")]) == 0, "byte by byte"


#: Class, vendor, where: what a configuration assigns; with its other words; whether /dev/mem has to be read for it.
IGD, CARD, NIC = ("0x030000", "0x8086", 2), ("0x030000", "0x1002", 5), ("0x020000", "0x8086", 5)


@pytest.mark.parametrize(
    ("assigned", "words", "memory"),
    [
        (IGD, "gfx_passthru='igd'", True),
        (CARD, "gfx_passthru='igd'", False),
        (CARD, "gfx_passthru='igd', stubdom=True", True),  # which gets a right on as much as the VBIOS's header says
        (CARD, "stubdom=True", False),
        (NIC, "gfx_passthru='igd', stubdom=True", False),
    ],
)
def test_only_what_is_assigned_is_read_and_memory_for_host_00_02_0_or_a_stubdomain(
    tmp_path: Path, assigned: tuple[str, str, int], words: str, memory: bool
) -> None:
    slot = assigned[2]
    devices = tmp_path / "devices"
    for number in range(8):  # an Intel display is always there
        kind, vendor, _ = IGD if number == 2 else assigned
        folder = devices / f"0000:00:{number:02x}.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text("0x1234\n")
        (folder / "class").write_text(f"{kind}\n")
        (folder / "boot_vga").write_text("1\n")
        (folder / "resource").write_text("0x0 0x0 0x0\n" * 6 + "0xc0000 0xdffff 0x212\n")
        (folder / "config").write_bytes((b"\0" * 0xFC) + (0x7A18D018).to_bytes(4, "little"))
    (tmp_path / "mem").write_bytes(b"")
    code = tmp_path / "code.py"
    code.write_text(
        f"import sys; sys.path += {[str(ROOT), os.path.dirname(_cffi_backend.__file__)]!r}\n"
        "from xlplug.config.domain import DomainConfig\n"
        "from xlplug.dom0 import firmware, pci, snapshot\nfrom xlplug.model.bdf import Bdf\n"
        "from xlplug.model.host import MemRegion\n"
        f"config = DomainConfig(type='hvm', {words})\n"
        f"devices, notes = pci.functions(((Bdf(0, 0, {slot}, 0), False),), None, {str(devices)!r})\n"
        "assert len(devices) == 1 and not notes\n"
        "asked = snapshot._with_firmware(config, devices, stubdom=config.stubdom)\n"
        "regions = (MemRegion(0x7A000000, 0x7B000000, 2),)\n"
        f"firmware.read_firmware(devices, regions, {str(tmp_path / 'mem')!r}, asked=asked)\n"
    )
    opened = traced(tmp_path, "openat", [sys.executable, "-IS", str(code)])
    mine = [line.partition('"')[2].partition('"')[0] for line in opened if f'"{tmp_path}/' in line]
    folders = {Path(path).parent.name for path in mine if path.startswith(str(devices))}
    assert folders == {f"0000:00:{slot:02x}.0"}
    assert (str(tmp_path / "mem") in mine) == memory


def test_of_a_whole_host_only_what_is_assigned_is_asked_of_its_memory(host: Callable[[str], HostSnapshot]) -> None:
    """A display beside an Intel one: who owns legacy VGA depends on both, and /dev/mem is not for the other one."""
    laptop = host("igd-laptop")
    card = next(device for device in laptop.devices if device.bdf != Bdf(0, 0, 2, 0))
    opregion, vbios, notes = read_firmware(laptop.devices, laptop.memory, "/nowhere", asked=(card,))
    assert (opregion, vbios, notes) == (None, None, ())
    assert len(read_firmware(laptop.devices, laptop.memory, "/nowhere")[2]) == 2
