# SPDX-License-Identifier: LGPL-2.1-only
"""contrib/ansible with ansible-core over real SSH, on three hosts; they are not on Xen, which is one of the cases."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.abi.oracle import require
from tests.fleet.hosts import Fleet, missing

ROOT = Path(__file__).parents[2]
DEB = ROOT / "build" / "deb"
SITE = """
- hosts: all
  become: true
  roles:
    - role: xlplug.xen.host
      xlplug_packages: {packages}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    reason = missing()
    if reason:
        require("packages", reason)
    them = Fleet(tmp_path_factory.mktemp("fleet"), 3)
    lines = [
        f"{h.name} ansible_host={h.address} ansible_user=root ansible_python_interpreter=/usr/bin/python3"
        for h in them.hosts
    ]
    (them.folder / "inventory").write_text("[xen]\n" + "\n".join(lines) + "\n")
    packages = [str(path) for path in sorted(DEB.glob("xlplug*_*.deb")) if "dbgsym" not in path.name]
    assert packages, "run 'make deb' first"
    (them.folder / "site.yml").write_text(SITE.format(packages=json.dumps(packages)))
    collections = them.folder / "ansible_collections" / "xlplug"
    collections.mkdir(parents=True)
    (collections / "xen").symlink_to(ROOT / "contrib" / "ansible")
    # Where Ansible runs, xlplug must be: the tree's.
    program = them.folder / "bin" / "xlplug"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec env PYTHONPATH={ROOT} {sys.executable} -m xlplug "$@"\n')
    program.chmod(0o755)
    yield them
    them.close()


def play(fleet: Fleet, *words: str) -> dict[str, dict[str, int]]:
    """Run ansible-playbook; each host's sums, of the recap."""
    done = ansible(fleet, "ansible-playbook", *words)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    lines = done.stdout.partition("PLAY RECAP")[2].splitlines()[1:]
    sums = {line.split()[0]: dict(re.findall(r"(\w+)=(\d+)", line)) for line in lines if line.strip()}
    return {host: {name: int(value) for name, value in each.items()} for host, each in sums.items()}


def module(fleet: Fleet, host: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return ansible(fleet, "ansible", host, "-m", *words)


def ansible(fleet: Fleet, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
    env = {
        "ANSIBLE_COLLECTIONS_PATH": str(fleet.folder),
        "ANSIBLE_LOCAL_TEMP": str(fleet.folder / "local"),
        "ANSIBLE_SSH_ARGS": " ".join([*fleet.ssh_options(), "-o", "ControlMaster=auto", "-o", "ControlPersist=60"]),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(fleet.folder / "cp"),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{fleet.folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": "",
        "PWD": str(fleet.folder),
    }
    return fleet.inside(f"/usr/bin/{program}", "-i", "inventory", *words, cwd=fleet.folder, **env)


def test_the_role_installs_and_hooks_once(fleet: Fleet) -> None:
    first = play(fleet, "site.yml")
    assert {name: (s["failed"], s["unreachable"]) for name, s in first.items()} == {
        f"host{n}": (0, 0) for n in range(3)
    }
    assert all(s["changed"] >= 2 for s in first.values()), first
    for host in fleet.hosts:
        assert fleet.ssh(host, "readlink /usr/local/sbin/xl").stdout == "/usr/lib/xlplug/xl\n"
        assert fleet.ssh(host, "xlplug --version").stdout.startswith("xlplug ")
    again = play(fleet, "site.yml")
    assert {s["changed"] for s in again.values()} == {0}, "the second time nothing changes"


def test_facts_off_xen(fleet: Fleet) -> None:
    done = module(fleet, "host1", "xlplug.xen.xlplug_facts")
    facts = json.loads(done.stdout.partition("=>")[2])["ansible_facts"]["xlplug"]
    assert facts["installed"] is True
    assert facts["hooked"] is True
    assert facts["domains"] == []
    assert any(f["status"] == "failure" and f["name"] == "xen" for f in facts["findings"])


def test_a_grant_off_xen_fails_with_our_line(fleet: Fleet) -> None:
    done = module(fleet, "host0", "xlplug.xen.xlplug_grant", "-a", "domain=7")
    said = done.stdout
    assert done.returncode != 0
    assert "xlplug: this machine does not run on Xen" in said
    assert "Traceback" not in said


def test_audit_gathers_and_judges(fleet: Fleet) -> None:
    fleet.ssh(
        fleet.hosts[2], "printf 'name=\"web\"\\ntype=\"hvm\"\\n' >/etc/xen/web.cfg; echo 'name=' >/etc/xen/bad.cfg"
    )
    play(fleet, "xlplug.xen.audit", "-e", "xlplug_fleet=fleet")
    value = json.loads((fleet.folder / "fleet" / "audit.json").read_text())
    assert {(d["host"], d["domain"], d["status"]) for d in value["domains"]} == {
        ("host2", "web", "plain"),
        ("host2", "bad", "unreadable"),
    }
    assert (fleet.folder / "fleet" / "host0" / "host.json").exists()
    assert "<b>2</b>domains" in (fleet.folder / "fleet" / "audit.html").read_text()
    left = fleet.ssh(fleet.hosts[2], "ls -d /tmp/*xlplug* ~/.ansible/tmp/*xlplug* 2>/dev/null").stdout
    assert left == "", "nothing stays on the host"


def test_the_role_switches_the_hook_off(fleet: Fleet) -> None:
    stats = play(fleet, "site.yml", "-e", "xlplug_hook=false")
    assert {s["changed"] for s in stats.values()} == {1}
    assert fleet.ssh(fleet.hosts[0], "test -e /usr/local/sbin/xl").returncode == 1
    fleet.ssh(fleet.hosts[0], "printf '#!/bin/sh\\necho built from source\\n' >/usr/local/sbin/xl")
    again = play(fleet, "site.yml", "-e", "xlplug_hook=false", "-l", "host0")
    assert {s["changed"] for s in again.values()} == {0}, "an xl that is not ours is left alone"
