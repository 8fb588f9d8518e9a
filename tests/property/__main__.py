# SPDX-License-Identifier: LGPL-2.1-only
"""``python -m tests.property [WORD]``: breaks the code on purpose, in a copy, and prints which property notices.

Exit status 1 when a breakage is noticed by none: then the properties prove less than they claim.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PLANS, APPLIED = "tests/property/test_plans.py", "tests/property/test_applied.py"
WATCHER = "tests/property/test_watcher.py"


class Breakage(NamedTuple):
    """What is broken: in this file this text becomes that one."""

    what: str
    file: str
    old: str
    new: str


BREAKAGES = (
    Breakage("APICs, HPET: not known", "registers.py", "_FIXED = Range(0xFEC00000, 1 << 32)", "_FIXED = Range(0, 1)"),
    Breakage(
        "MMCFG: not known", "registers.py", "windows = host.mmcfg or tuple(_guessed_windows(host))", "windows = ()"
    ),
    Breakage("MMCFG: not guessed", "registers.py", "or tuple(_guessed_windows(host))", ""),
    Breakage(
        "BARs of virtual functions: not known",
        "registers.py",
        "(bridge and r.line > ROM_INDEX) or",
        "r.line > ROM_INDEX or",
    ),
    Breakage("RAM: not refused", "plan.py", "*_ram_refusals(legacy.rights, host)", "*()"),
    Breakage("others' BARs: not refused", "plan.py", "*_bar_refusals(legacy.rights, host, devices)", "*()"),
    Breakage("ACPI tables: the firmware's", "model/host.py", "E820_FIRMWARE = (2, 4)", "E820_FIRMWARE = (2, 3, 4)"),
    Breakage("overlapping entries: not looked at", "igd.py", "if len(entries) > 1 or", "if"),
    Breakage("OpRegion: four pages", "igd.py", "OPREGION_PAGES = 3", "OPREGION_PAGES = 4"),
    Breakage("OpRegion: two pages", "igd.py", "OPREGION_PAGES = 3", "OPREGION_PAGES = 2"),
    Breakage("OpRegion: a bad third page granted", "igd.py", "    if faults:\n", "    if False:\n"),
    Breakage("OpRegion: may move", "igd.py", "host.opregion_pin != address", "False"),
    Breakage("OpRegion: any header", "igd.py", "    if fault is not None:\n", "    if False:\n"),
    Breakage("VBIOS: to the target", "igd.py", 'STUBDOM, "VBIOS shadow"', 'TARGET, "VBIOS shadow"'),
    Breakage("VBIOS: as long as it claims", "igd.py", " or stop > rom.stop", ""),
    Breakage("VBIOS: any vendor", "igd.py", "vbios.vendor != device.vendor", "False"),
    Breakage(
        "VGA ports: the printer's too",
        "vga.py",
        "(Range(0x3B0, 0x3BC), Range(0x3C0, 0x3E0))",
        "(Range(0x3B0, 0x3C0), Range(0x3C0, 0x3E0))",
    ),
    Breakage("VGA: for any display", "displays.py", "any(device.bdf == owner.bdf for device in displays)", "displays"),
    Breakage("VGA: where it may be another's", "displays.py", "len(mine) == len(possible)", "mine"),
    Breakage("VGA: bridges do not count", "vga_owner.py", "            return _CUT_OFF\n", "            pass\n"),
    Breakage(
        "grantee: the stubdomain's number for both",
        "plan.py",
        "libxl.within(*span), who.domid(grantee)",
        "libxl.within(*span), who.stubdom or who.target",
    ),
    Breakage(
        "libxl: grants a0-bf to all of class 0300",
        "plan.py",
        "device.class_code == 0x030000",
        "device.class_code >> 8 == 0x0300",
    ),
    Breakage("libxl: rounds outward", "pci_assign.py", "(libxl_page_span if as_libxl else page_span)", "page_span"),
    Breakage(
        "libxl: ioports= forgotten",
        "plan.py",
        'found = [LibxlGrant(IOPORT, ports, TARGET, "ioports=") for ports in config.ioports]',
        "found = []",
    ),
    Breakage("ioports=: an assigned BAR mapped", "ports.py", "        wanted -= bars\n", "        pass\n"),
    Breakage("ioports=: another's BAR mapped", "ports.py", "theirs and device.bdf not in mine", "False"),
    Breakage(
        "RAM: video RAM over the guest's",
        "physmap.py",
        "config.maxmem - config.videoram",
        "config.maxmem - 2 * config.videoram",
    ),
    Breakage(
        "undo: takes what libxl has", "model/steps.py", "RangeSet([self.range]) - self.kept", "RangeSet([self.range])"
    ),
    Breakage(
        "undo: unmapped ports not given again",
        "model/steps.py",
        "if self.op == IOPORT_MAPPING and self.add:",
        "if False:",
    ),
    Breakage(
        "undo: spares nothing",
        "execute/apply.py",
        "return step._replace(kept=step.kept | ",
        "return step._replace(kept=step.kept) or (",
    ),
    Breakage("revoke: mappings stay", "execute/revokes.py", "mapped = _vga_mappings(steps)", "mapped = ()"),
    Breakage(
        "unplug: what libxl has now is taken",
        "execute/revokes.py",
        "step._replace(kept=kept(step)) for step in gone",
        "step._replace(kept=step.kept - step.kept) for step in gone",
    ),
    Breakage(
        "unplug: others' needs are taken",
        "execute/revokes.py",
        'detached device", protect=rest',
        'detached device", protect=()',
    ),
    Breakage(
        "failure: nothing is undone",
        "execute/apply.py",
        "left = take_back(begun, xen, lambda",
        "left = take_back([], xen, lambda",
    ),
    Breakage(
        "kill: not recorded before",
        "execute/grants.py",
        "        _write(journal, Entry(APPLYING, before.steps, new, before.dm), entry, before, target)\n",
        "",
    ),
    Breakage(
        "record: a stubdomain that died counts",
        "execute/journal.py",
        "return nodes.domid_in(view.read(nodes.target(domid))) == self._domid",
        "return True",
    ),
    Breakage(
        "record: of a domain that is gone",
        "execute/journal.py",
        "if view.read(nodes.domain(self._domid)) is None:",
        "if False:",
    ),
    Breakage(
        "two guests have legacy VGA",
        "execute/sole_vga.py",
        "if info is not None and any(map(",
        "if info is None and any(map(",
    ),
    Breakage(
        "daemon: a guest stays paused",
        "watch/guests.py",
        "            world.pauser.unpause(holder)\n",
        "            pass\n",
    ),
)


def noticed(breakage: Breakage) -> str:
    """The first property that fails with it; "" for none."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("xlplug", "tests", "hooks", "pyproject.toml"):
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, f"{folder}/{name}", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / name, folder)
        path = Path(folder, "xlplug", breakage.file)
        text = path.read_text()
        assert text.count(breakage.old) == 1, f"{breakage.file} has {breakage.old!r} {text.count(breakage.old)} times"
        path.write_text(text.replace(breakage.old, breakage.new))
        tests = APPLIED if breakage.file.startswith(("execute", "model/steps")) else PLANS
        if breakage.file in ("execute/journal.py", "execute/sole_vga.py", "watch/guests.py"):
            tests = WATCHER
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "--hypothesis-seed=1", tests]
        environment = {
            **os.environ,
            "EXAMPLES": "1500",
            "SHRINK": "no",
            "PYTHONPATH": folder,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    found = re.findall(r"^FAILED [^:]*::(\w+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or bool(found) != bool(done.returncode):
        raise SystemExit(f"{breakage.what}: pytest did not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return ", ".join(found)


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    todo = [breakage for breakage in BREAKAGES if word in breakage.what]
    missed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for breakage, name in zip(todo, pool.map(noticed, todo), strict=True):
            print(f"{breakage.what}: {name or 'NOT NOTICED'}", flush=True)
            missed += not name
    print(f"{len(todo)} breakages, {missed} of them not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
