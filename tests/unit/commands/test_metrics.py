# SPDX-License-Identifier: LGPL-2.1-only
"""``xlplug metrics`` on a recorded domain in memory, read by Prometheus' own parser; and what counts runs."""

import errno
import fcntl
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.abi.oracle import require
from xlplug.commands import common
from xlplug.commands.grant import GrantOptions
from xlplug.commands.metrics import collect
from xlplug.config.domain import DomainConfig
from xlplug.dom0 import tally
from xlplug.execute import grants
from xlplug.model.addr import Domid
from xlplug.model.errors import XenError
from xlplug.model.host import HostSnapshot
from xlplug.model.hypervisor import DomainInfo, HeldRights
from xlplug.model.occasion import BY_HAND, Who
from xlplug.plan import build
from xlplug.xen.in_memory import MemStore, MemXen

ROOT = Path(__file__).parents[3]
COUNTS = {"runs wrapper done": 3.0, "runs create refused": 1.0, "seconds wrapper": 0.75, "waits wrapper": 3.0}


@pytest.fixture
def text(host: Callable[[str], HostSnapshot], config: Callable[[str], DomainConfig]) -> str:
    xen, store = MemXen((4, 17)), MemStore()
    xen.add_domain(DomainInfo(7, hvm=True, nr_pages=1 << 14, max_pages=1 << 15))
    store.write("/local/domain/7/name", 'gp"u\\')
    grants.grant(
        build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), host("igd-laptop"), Who(Domid(7)), BY_HAND),
        xen,
        store,
        lambda line: None,
    )
    return "".join(collect(xen, store, COUNTS, hooked=True))


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_prometheus_reads_them(text: str) -> None:
    found = samples(text)
    assert found["xlplug_hook_installed", ()] == 1
    assert found["xlplug_domains", (("state", "applied"),)] == 1
    assert found["xlplug_runs_total", (("by", "wrapper"), ("outcome", "done"))] == 3
    assert found["xlplug_hook_seconds_sum", (("by", "wrapper"),)] == 0.75
    assert found["xlplug_hook_seconds_count", (("by", "wrapper"),)] == 3
    labels = {"domain": 'gp"u\\', "domid": "7", "grantee": "target", "kind": "ioport", "state": "granted"}
    assert found["xlplug_domain_granted", tuple(sorted(labels.items()))] == 0xC + 0x20
    missing = tuple(sorted({**labels, "state": "missing"}.items()))
    assert found["xlplug_domain_granted", missing] == 0


@pytest.mark.parametrize("number", [errno.ENODATA, errno.EAGAIN, errno.EACCES])
def test_a_dump_that_cannot_be_had(
    host: Callable[[str], HostSnapshot], config: Callable[[str], DomainConfig], number: int
) -> None:
    class Full(MemXen):
        def held(self) -> dict[int, HeldRights]:
            raise XenError("xc_readconsolering", number)

    xen, store = Full((4, 17)), MemStore()
    xen.add_domain(DomainInfo(7, hvm=True, nr_pages=1 << 14, max_pages=1 << 15))
    store.write("/local/domain/7/name", "g")
    plan = build(config('gfx_passthru="igd"\npci=["00:02.0"]\n'), host("igd-laptop"), Who(Domid(7)), BY_HAND)
    grants.grant(plan, xen, store, lambda line: None)
    if number == errno.EACCES:
        with pytest.raises(XenError):
            list(collect(xen, store, {}, hooked=True))
        return
    found = samples("".join(collect(xen, store, {}, hooked=True)))
    states = [dict(labels)["state"] for name, labels in found if name == "xlplug_domain_granted"]
    assert set(states) == {"granted"}
    assert found["xlplug_domains", (("state", "applied"),)] == 1


def test_promtool_has_nothing_to_say(text: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        require("man", "promtool is not installed (Debian: prometheus)")
    done = subprocess.run([str(promtool), "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_family_is_explained_once(text: str) -> None:
    names = re.findall(r"(?m)^# HELP (\w+) \w", text)
    assert names == re.findall(r"(?m)^# TYPE (\w+) (?:gauge|counter|summary)$", text)
    assert len(names) == len(set(names))


def test_a_host_without_grants() -> None:
    found = samples("".join(collect(MemXen((4, 17)), MemStore(), {}, hooked=False)))
    assert {name for name, _ in found} == {"xlplug_info", "xlplug_hook_installed"}


def test_the_dashboard_asks_for_what_there_is(text: str) -> None:
    there = set(re.findall(r"(?m)^(xlplug_\w+)", text))
    board = json.loads((ROOT / "contrib" / "grafana" / "xlplug.json").read_text())
    asked = {
        name for panel in board["panels"] for t in panel["targets"] for name in re.findall(r"xlplug_\w+", t["expr"])
    }
    assert asked <= there
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    page = (ROOT / "docs" / "man" / "commands" / "metrics.scd").read_text().replace("\\", "")
    families = set(re.findall(r"(?m)^# HELP (\w+)", text))
    assert families == set(re.findall(r"(?m)^\*(xlplug_\w+)\*$", page))


def test_tally_adds_up(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "tally")
    assert tally.read(path) == {}

    def many() -> None:
        for _ in range(50):
            tally.add("wrapper", 0, 0.5, path)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.add("create", 1, path=path)
    tally.add("create", 2, path=path)  # wrong use is not a run
    assert tally.read(path) == {
        "runs wrapper done": 200,
        "seconds wrapper": 100,
        "waits wrapper": 200,
        "runs create refused": 1,
    }


def test_tally_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds it may have been stopped, with Ctrl-Z."""
    monkeypatch.setattr(tally, "_PATIENCE", 0.1)
    path = tmp_path / "tally"
    tally.add("wrapper", 0, path=str(path))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        begun = time.monotonic()
        tally.add("wrapper", 0, path=str(path))
        assert time.monotonic() - begun < 5
    assert tally.read(str(path)) == {"runs wrapper done": 1}


def test_tally_never_stops_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tally.add("wrapper", 0, 1.0, str(tmp_path / "file" / "tally"))
    spoilt = tmp_path / "tally"
    spoilt.write_bytes(b"\xff\xfe nonsense\nruns wrapper done x\n")
    tally.add("wrapper", 0, path=str(spoilt))
    assert tally.read(str(spoilt)) == {"runs wrapper done": 1}
    link = tmp_path / "link"
    link.symlink_to(spoilt)
    tally.add("wrapper", 0, path=str(link))
    assert tally.read(str(spoilt)) == {"runs wrapper done": 1}, "a link is not followed"


def test_a_rehearsal_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, int]] = []
    monkeypatch.setattr(tally, "add", lambda by, status: counted.append((by, status)))

    def grant(options: GrantOptions) -> int:
        return 0

    for options in (GrantOptions("7", recorded="folder"), GrantOptions("7", dry_run=True), GrantOptions("7")):
        assert common.run(grant, options) == 0
    assert counted == [("grant", 0)]
