# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug audit`` on folders as an administrator, or the Ansible role, fills them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.forked import xlplug
from xlplug.audit.fleet import audit
from xlplug.audit.judge import Verdict
from xlplug.model.errors import HostError

ROOT = Path(__file__).parents[3]
HOSTS = ROOT / "tests" / "recorded" / "hosts"
DOMAINS = ROOT / "tests" / "recorded" / "domains"
CARD = (ROOT / "examples" / "domain.cfg").read_text()
PLAIN = 'name="web"\ntype="hvm"\nmemory=512\n'


def host(folder: Path, kind: str = "igd-laptop", name: str = "", **configs: str) -> Path:
    folder.mkdir(parents=True)
    data = json.loads((HOSTS / f"{kind}.json").read_text())
    (folder / "host.json").write_text(json.dumps({**data, "name": name or folder.name}))
    for each, text in configs.items():
        (folder / f"{each}.cfg").write_text(text)
    return folder


def judged(*folders: Path, processes: int = 1) -> dict[str, Verdict]:
    return {Path(v.path).name: v for v in audit([str(f) for f in folders], processes)}


def test_what_would_become_of_each(tmp_path: Path) -> None:
    host(tmp_path / "a", card=CARD, web=PLAIN, broken='name="x\n', two=CARD.replace('"00:02.0"', '"09:00.0"'))
    found = judged(tmp_path)
    assert {name: v.status for name, v in found.items()} == {
        "card.cfg": "starts",
        "web.cfg": "plain",
        "broken.cfg": "unreadable",
        "two.cfg": "refused",
    }
    assert found["card.cfg"].on_4_23 == "needs xlplug"
    assert found["web.cfg"].on_4_23 == "same"
    assert found["broken.cfg"].findings[0].problem.what.startswith("line 1: ")
    assert "no such PCI device" in found["two.cfg"].findings[0].problem.what


def test_a_pipe_is_not_waited_for_and_a_config_is_read_whole(tmp_path: Path) -> None:
    host(tmp_path / "a", long=PLAIN + "#" * (1 << 20) + "\n" + CARD)
    os.mkfifo(tmp_path / "a" / "pipe.cfg")
    shutil.copytree(DOMAINS / "igd-laptop-stubdom", tmp_path / "a" / "domain")
    (tmp_path / "a" / "domain" / "domain.cfg").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "a" / "domain" / "domain.cfg")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "host.json")
    found = judged(tmp_path)
    assert {name: v.status for name, v in found.items()} == {
        "long.cfg": "starts", "pipe.cfg": "unreadable", "domain": "unreadable", "host.json": "unreadable",
    }  # fmt: skip
    assert found["pipe.cfg"].findings[0].problem == ("not a regular file", "remove it", "XLP201")


def test_what_two_domains_of_a_host_cannot_both_have(tmp_path: Path) -> None:
    host(tmp_path / "a", one=CARD, two=CARD.replace('"gpu"', '"other"'), web=PLAIN)
    host(tmp_path / "b", one=CARD)
    found = {(v.host, v.domain): v for v in audit([str(tmp_path)], 1)}
    assert found["a", "gpu"].conflicts
    assert str(found["a", "gpu"].findings[0].problem) == (
        "0000:00:02.0: also for domain 'other'; run only one of them at a time [XLP510]"
    )
    assert found["a", "other"].conflicts
    assert not found["a", "web"].conflicts
    assert not found["b", "gpu"].conflicts, "another host"


def test_of_two_displays_of_one_host_only_one_has_the_vga_ranges(tmp_path: Path) -> None:
    other = CARD.replace('"gpu"', '"other"').replace("00:02.0", "01:00.0")
    host(tmp_path / "a", "hybrid-nvidia", one=CARD, two=other)
    found = judged(tmp_path)
    assert not [f for f in found["one.cfg"].findings if f.kind == "conflict"], "only one of them owns legacy VGA"
    assert any("0000:01:00.0: no VGA set" in f.problem.what for f in found["two.cfg"].findings)


def test_adjacent_bars_break_on_4_23(tmp_path: Path) -> None:
    data = json.loads((HOSTS / "adjacent-io-bars.json").read_text())
    ports = [d["bdf"] for d in data["devices"] if any(r["flags"] & 0x100 for r in d["resources"])]
    listed = ", ".join(f'"{bdf}"' for bdf in ports)
    host(tmp_path / "a", "adjacent-io-bars", nics=f'name="nics"\ntype="hvm"\npci=[{listed}]\n')
    assert judged(tmp_path)["nics.cfg"].on_4_23 == "breaks"


def test_recorded_domains(tmp_path: Path) -> None:
    """Alone, with their own host; below a host's folder, as domains of that host; two of one host side by side."""
    alone = judged(DOMAINS)
    assert {name: v.status for name, v in alone.items()} == dict.fromkeys(
        ("igd-laptop", "igd-laptop-stubdom", "qubes-sys-gui-gpu"), "starts"
    )
    assert not any(v.conflicts for v in alone.values()), "one name is one domain"
    folder = host(tmp_path / "a")
    shutil.copytree(DOMAINS / "igd-laptop", folder / "domains" / "gpu")
    assert judged(tmp_path)["gpu"].status == "starts"
    (folder / "domains" / "gpu" / "domain.json").write_text("{")
    assert judged(tmp_path)["gpu"].status == "unreadable"


def test_a_host_that_cannot_be_read_is_one_verdict(tmp_path: Path) -> None:
    (host(tmp_path / "a", web=PLAIN) / "host.json").write_text("[]")
    (verdict,) = audit([str(tmp_path)], 1)
    assert verdict.status == "unreadable"


def test_processes_change_nothing(tmp_path: Path) -> None:
    for n in range(70):
        host(tmp_path / f"h{n:02}", card=CARD, web=PLAIN)
    alone = list(audit([str(tmp_path)], 1))
    assert len(alone) == 140
    assert list(audit([str(tmp_path)], 2)) == alone


def test_memory_does_not_grow_with_the_fleet(tmp_path: Path) -> None:
    """Ten times the hosts, and not a tenth more."""
    for n in range(200):
        host(tmp_path / "many" / f"h{n:03}", web=PLAIN)
    (tmp_path / "few").mkdir()
    for n in range(20):
        (tmp_path / "few" / f"h{n:03}").symlink_to(tmp_path / "many" / f"h{n:03}")
        shutil.copytree(tmp_path / "many" / f"h{n:03}", tmp_path / "few" / f"c{n:03}")

    def peak(folder: Path) -> int:
        code = (
            "import resource, sys; from xlplug.audit.fleet import audit\n"
            "n = sum(1 for _ in audit(sys.argv[1:], 1)); print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, cwd=ROOT, check=True
        )
        count, size = done.stdout.split()
        assert int(count) == len([p for p in folder.iterdir() if not p.is_symlink()])
        return int(size)

    assert peak(tmp_path / "many") < peak(tmp_path / "few") * 1.1


@pytest.mark.parametrize("what", ["absent", "empty"])
def test_nothing_to_audit(what: str, tmp_path: Path) -> None:
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    with pytest.raises(HostError):
        list(audit([str(folder)], 1))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return xlplug("audit", *words)


def test_command(tmp_path: Path) -> None:
    host(tmp_path / "good", card=CARD, web=PLAIN)
    done = run(str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "host good"
    assert done.stdout.splitlines()[-1].startswith("hosts: 1, domains: 2, starts: 1, plain: 1, refused: 0")
    assert done.stderr == "", "no progress where nobody looks"
    host(tmp_path / "bad", broken="name=")
    assert run(str(tmp_path)).returncode == 1
    value = json.loads(run(str(tmp_path), "--format", "json").stdout)
    jsonschema.validate(value, json.loads((ROOT / "docs" / "audit.schema.json").read_text()))
    assert value["sums"]["domains"] == len(value["domains"]) == 3
    page = run(str(tmp_path), "--format", "html").stdout
    assert page.count('<div class="domain">') == 3
    assert "<b>3</b>domains" in page
    assert page.endswith("</html>\n")
    assert run(str(tmp_path / "nowhere")).stderr.count("\n") == 1
