# SPDX-License-Identifier: LGPL-2.1-only
"""contrib/salt, rendered as Salt renders it (Jinja, then YAML), with what Salt would answer in each place.  Salt is not run."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.abi.oracle import require

STATE = Path(__file__).parents[2] / "contrib" / "salt" / "xlplug" / "init.sls"
RENDER = """
import json, sys, jinja2, yaml
pillar, qubes = json.loads(sys.argv[1])
salt = {"pillar.get": lambda name, default: pillar.get(name, default), "file.file_exists": lambda path: qubes}
text = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(sys.stdin.read()).render(salt=salt)
print(json.dumps(yaml.safe_load(text)))
"""


def rendered(pillar: dict[str, object], *, qubes: bool) -> dict[str, dict[str, list[dict[str, object]]]]:
    argv = ["/usr/bin/python3", "-c", RENDER, json.dumps([pillar, qubes])]
    done = subprocess.run(argv, input=STATE.read_text(), capture_output=True, text=True)
    if "No module named" in done.stderr:
        require("packages", "python3-jinja2 and python3-yaml are not installed")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("qubes", "service"), [(True, "service.running"), (False, "service.dead")])
def test_the_daemon_is_for_qubes(qubes: bool, service: str) -> None:
    state = rendered({}, qubes=qubes)
    assert set(state) == {"xlplug", "xlplug-watch", "xlplug-hook"}
    assert list(state["xlplug-watch"]) == [service]
    assert {"require": [{"pkg": "xlplug"}]} in state["xlplug-watch"][service]


@pytest.mark.parametrize(("hook", "command"), [(True, "xlplug hook install"), (False, "xlplug hook uninstall")])
def test_the_hook_is_switched_as_the_pillar_says(hook: bool, command: str) -> None:
    run = rendered({"xlplug": {"hook": hook}}, qubes=False)["xlplug-hook"]["cmd.run"]
    assert {"name": command} in run
    assert {("unless" if hook else "onlyif"): 'grep -qs "^# xlplug: " /usr/local/sbin/xl'} in run, (
        "a second run changes nothing"
    )
