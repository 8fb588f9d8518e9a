# SPDX-License-Identifier: LGPL-2.1-only
"""The main job on the real Xen: grant, show, revoke, and everything that can be typed wrong."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import BASE, IGD, VGA, Guests, dump, journal, sh, xlplug
from xlplug.model.rangeset import RangeSet

PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
MEMORY = RangeSet([(0xA0, 0xC0)])
#: A config that asks for the display, for a guest that was created without it.
CLAIM = IGD


def bare(guests: Guests) -> tuple[int, Path]:
    """A guest that holds nothing, and a config by which it wants the display."""
    domid, path = guests.make()
    path.write_text(path.read_text() + CLAIM)
    return domid, path


@pytest.mark.smoke
def test_grant_shows_in_xen_s_dump_and_revoke_restores(guests: Guests) -> None:
    domid, path = bare(guests)
    assert dump()[domid] == (RangeSet(), RangeSet())
    done = xlplug("grant", str(domid), "--config", str(path))
    assert done.returncode == 0, done.stderr
    assert f"grant target domid={domid} ioport 3b0-3bb" in done.stdout
    assert "xlplug: warning" not in done.stderr
    assert dump()[domid] == (PORTS, MEMORY)
    assert 'state = "applied"' in journal(domid)

    show = xlplug("show", str(domid))
    assert show.returncode == 0
    assert "{ 3b0-3bb, 3c0-3df }" in show.stdout
    assert "MISSING" not in show.stdout

    back = xlplug("revoke", str(domid))
    assert back.returncode == 0, back.stderr
    # a0-bf is libxl's to grant and stays; the ports are ours alone.
    assert dump()[domid] == (RangeSet(), MEMORY)
    assert journal(domid) == ""
    assert sh("xenstore-read", f"/libxl/{domid}/xlplug/state").stdout == "revoked\n"
    assert sh("xenstore-list", f"/libxl/{domid}/xlplug").stdout.split() == ["handle", "state"]
    assert sh("xenstore-list", "/tool/xlplug-vga").returncode != 0


def test_granting_and_revoking_again(guests: Guests) -> None:
    domid, path = bare(guests)
    assert xlplug("grant", str(domid), "--config", str(path)).returncode == 0
    again = xlplug("grant", str(domid), "--config", str(path))
    assert (again.returncode, again.stdout) == (
        0,
        "nothing to do: all 3 steps were done before; their permissions are given once more\n",
    )
    assert dump()[domid] == (PORTS, MEMORY)

    assert str(domid) in xlplug("show").stdout

    code = f"from xlplug.xen.ctrl import XenCtrl; XenCtrl().ioport_permission({domid}, 0x3c0, 0x20, allow=False)"
    assert sh("python3", "-c", code).returncode == 0
    assert "MISSING" in xlplug("show", str(domid)).stdout
    assert xlplug("grant", str(domid), "--config", str(path)).returncode == 0
    assert dump()[domid] == (PORTS, MEMORY)

    assert xlplug("revoke", str(domid)).returncode == 0
    assert xlplug("revoke", str(domid)).stdout.startswith("nothing to do")


def test_mapping_the_legacy_set_and_back(guests: Guests) -> None:
    domid, path = bare(guests)
    done = xlplug("grant", str(domid), "--config", str(path), "--map-legacy")
    assert done.returncode == 0, done.stderr
    assert f"map target domid={domid} iomem a0-bf at gfn a0-bf" in done.stdout
    assert "ioport_map:add" in sh("xl", "dmesg").stdout
    assert dump()[domid] == (PORTS, MEMORY)
    assert xlplug("revoke", str(domid)).returncode == 0
    assert dump()[domid].ports == RangeSet()


def test_inert_ioports_are_mapped(guests: Guests) -> None:
    domid, _ = guests.make('ioports=["3b0-3bb","3c0-3df"]\n')
    assert dump()[domid].ports == PORTS
    done = xlplug("grant", str(domid))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("map target") == 2
    assert dump()[domid].ports == PORTS
    assert xlplug("revoke", str(domid)).returncode == 0
    assert dump()[domid].ports == PORTS, "libxl's own permission is still there"


def test_what_xen_keeps_from_dom0_is_refused_before_anything_is_done(guests: Guests) -> None:
    """A call that fails in the middle is tried in test_fire.py."""
    domid, path = guests.make()
    path.write_text(path.read_text() + CLAIM + 'ioports=["3f8-3ff"]\n')  # Xen's console: dom0 does not hold it
    done = xlplug("grant", str(domid), "--config", str(path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Xen keeps 3f8-3ff (Xen's own serial console, COM 1) even from dom0" in done.stderr
    assert done.stderr.endswith(" [XLP341]\n")
    assert dump()[domid].ports == RangeSet()
    assert journal(domid) == ""


def test_a_killed_run_is_finished_by_the_next_and_undone_by_revoke(guests: Guests) -> None:
    domid, path = bare(guests)
    code = (
        "import os, sys; from xlplug.commands import common, grant; from xlplug.execute import apply; "
        "real = apply._perform; n = [0]\n"
        "def dying(step, xen):\n"
        "    n[0] += 1\n"
        "    if n[0] == 3: os.kill(os.getpid(), 9)\n"
        "    real(step, xen)\n"
        f"apply._perform = dying; common.run(grant.grant, grant.GrantOptions('{domid}', '{path}'))\n"
    )
    for finish in ("grant", "revoke"):
        assert sh("python3", "-c", code).returncode == -9
        assert 'state = "applying"' in journal(domid)
        arguments = ["--config", str(path)] if finish == "grant" else []
        done = xlplug(finish, str(domid), *arguments)
        assert done.returncode == 0, done.stderr
        assert dump()[domid].ports == (PORTS if finish == "grant" else RangeSet())
        xlplug("revoke", str(domid))


def test_a_terminated_run_leaves_nothing(guests: Guests) -> None:
    domid, path = bare(guests)
    code = (
        "import os, sys, signal; from xlplug.commands import common, grant; from xlplug.execute import apply; "
        "real = apply._perform; n = [0]\n"
        "def hit(step, xen):\n"
        "    n[0] += 1\n"
        "    real(step, xen)\n"
        "    if n[0] == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
        "apply._perform = hit\n"
        f"sys.exit(common.run(grant.grant, grant.GrantOptions('{domid}', '{path}')))\n"
    )
    done = sh("python3", "-c", code)
    assert done.returncode == 3, done.stderr
    assert "interrupted" in done.stderr
    assert dump()[domid].ports == RangeSet()
    assert journal(domid) == ""


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["grant", "4000"], 1, "domain 4000 does not exist; see 'xl list'"),
        (["grant", "0"], 2, "is dom0"),
        (["grant", "32752"], 2, "number"),
        (["grant", "65537"], 2, "number"),
        (["grant", "-1"], 2, ""),
        (["grant", "x"], 1, "domain 'x' does not exist"),
        (["grant", "/root/gpu.cfg"], 1, "not its config"),
        (["grant", ""], 1, "does not exist"),
        (["grant"], 2, ""),
        (["grant", "1", "--config", "/nonexistent.cfg"], 1, "does not exist"),
        (["revoke", "0"], 2, "is dom0"),
        (["revoke", "4000"], 1, "does not exist"),
        (["show", "4000"], 1, "does not exist"),
        (["record", "domain", "0", "-o", "/tmp/x"], 2, "is dom0"),
    ],
)
def test_wrong_numbers(argv: list[str], code: int, says: str) -> None:
    before = dump()
    done = xlplug(*argv)
    assert done.returncode == code, done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert dump() == before


def test_wrong_configs(guests: Guests) -> None:
    domid, path = bare(guests)
    other = path.with_name("other.cfg")
    for text, says in (
        (None, "No such file"),
        ('name="someone-else"\n' + CLAIM, "is for domain 'someone-else'"),
        ("import os\n", "old Python xend config"),
        (path.read_text().replace("00:01.0", "1f:01.0"), "no such PCI device"),
        (path.read_text() + "maxmem=128\n", "populate on"),
        (path.read_text().replace(f'pci=["{VGA}"]', ""), "no display device"),
        (path.read_text().replace("00:01.0", "00:02.0"), "not assignable"),
    ):
        other.unlink(missing_ok=True)
        if text is not None:
            other.write_text(text)
        done = xlplug("grant", str(domid), "--config", str(other))
        assert done.returncode == 1, (text, done.stdout, done.stderr)
        assert says in done.stderr, done.stderr
        errors = [line for line in done.stderr.splitlines() if not line.startswith("xlplug: warning: ")]
        assert len(errors) == 1, done.stderr
    assert dump()[domid] == (RangeSet(), RangeSet())


def test_no_config_found(guests: Guests) -> None:
    domid, _ = guests.make()
    for file in Path("/var/lib/xen").glob(f"userdata-d.{domid}.*.libxl-json"):
        file.unlink()
    done = xlplug("grant", str(domid))
    assert done.returncode == 1
    assert f"give its xl config: xlplug grant {domid} --config FILE" in done.stderr


def test_ports_that_xen_keeps_from_dom0(tmp_path: Path) -> None:
    """Xen's console (console=com1) and ACPI's timer among them, whose address is the machine's own."""
    before = dump()[0]
    recorded = tmp_path / "host.json"
    done = xlplug("record", "host", "-o", str(recorded))
    assert done.returncode == 0, done.stderr
    kept = RangeSet([(0, 0x10000)]) - before.ports
    assert RangeSet([tuple(pair) for pair in json.loads(recorded.read_text())["kept_ports"]]) == kept
    assert kept.covers(0x3F8, 0x400)
    assert kept.covers(0x608, 0x60C)
    path = tmp_path / "g.cfg"
    path.write_text(f'name="kept"\n{BASE}ioports=["3f8-3ff","609"]\n')
    plan = xlplug("plan", str(path))
    assert plan.returncode == 1
    assert "Xen keeps 3f8-3ff (Xen's own serial console, COM 1), 609 (Xen uses them itself" in plan.stdout
    assert sh("xl", "create", "-p", str(path)).returncode != 0
    path.write_text(f'name="kept"\n{BASE}ioports=["2f8-2ff","500-50f","600-607"]\n')
    assert xlplug("plan", str(path)).returncode == 0
    assert dump()[0] == before


def test_not_root() -> None:
    done = subprocess.run(
        ["python3", "-m", "xlplug", "grant", "1"], capture_output=True, text=True, user=65534, env=dict(os.environ)
    )
    assert done.returncode == 1
    assert done.stderr == "xlplug: Xen can be changed by root only; run it with sudo [XLP102]\n"


def test_without_xenstored_it_says_so() -> None:
    hidden = Path("/run/xenstored.hidden")
    Path("/run/xenstored").rename(hidden)
    try:
        done = subprocess.run(
            ["python3", "-m", "xlplug", "grant", "1"], capture_output=True, text=True, timeout=60,
            env={**os.environ, "XENSTORED_PATH": "/nonexistent"},
        )  # fmt: skip
    finally:
        hidden.rename("/run/xenstored")
    assert done.returncode == 1
    assert "xenstored cannot be reached" in done.stderr
    assert done.stderr.count("\n") == 1
