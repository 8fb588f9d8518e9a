# SPDX-License-Identifier: LGPL-2.1-only
"""contrib/ansible's module xlplug_grant on a real domain: present, again, check mode, diff, and absent.

Ansible's own module library comes in build/ansible-core (tests/run.sh); SSH and the rest of Ansible are in tests/fleet.
"""

import json
import subprocess
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import IGD, Guests, dump
from xlplug.model.rangeset import RangeSet

MODULE = "/xlplug/contrib/ansible/plugins/modules/xlplug_grant.py"
LIBRARY = Path("/xlplug/build/ansible-core")
PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))


def run(tmp_path: Path, *, check: bool = False, **arguments: object) -> dict[str, object]:
    assert LIBRARY.exists(), "build/ansible-core is missing; tests/run.sh makes it"
    given = tmp_path / "arguments.json"
    options = {"_ansible_check_mode": check, "_ansible_diff": True}
    given.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, **options}}))
    env = {"PYTHONPATH": f"/xlplug:{LIBRARY}", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(["python3", MODULE, str(given)], capture_output=True, text=True, env=env, timeout=120)
    value: dict[str, object] = json.loads(done.stdout)
    assert done.returncode == (1 if value.get("failed") else 0), done.stderr
    return value


@pytest.mark.once
def test_grant(guests: Guests, tmp_path: Path) -> None:
    domid, config = guests.make(IGD)
    stock = dump()[domid]
    looked = run(tmp_path, check=True, domain=str(domid))
    assert looked["changed"] is True
    assert dump()[domid] == stock, "only looked at"
    assert "3b0-3bb" not in str(looked["granted"])

    done = run(tmp_path, domain=str(domid), config=str(config))
    assert done["changed"] is True
    assert dump()[domid].ports & PORTS == PORTS
    assert f"target domid={domid} ioport {{ 3b0-3bb, 3c0-3df }}\n" in done["diff"]["after"]  # type: ignore[index]
    assert done["diff"]["before"] == ""  # type: ignore[index]
    assert run(tmp_path, domain=str(domid))["changed"] is False
    assert run(tmp_path, check=True, domain=str(domid))["changed"] is False

    gone = run(tmp_path, domain=str(domid), state="absent")
    assert gone["changed"] is True
    assert gone["diff"]["after"] == ""  # type: ignore[index]
    assert run(tmp_path, domain=str(domid), state="absent")["changed"] is False


def test_a_domain_that_is_not_there(tmp_path: Path) -> None:
    value = run(tmp_path, domain="4711")
    assert value["failed"] is True
    assert str(value["msg"]).startswith("xlplug: ")
    assert "does not exist" in str(value["msg"])
