# SPDX-License-Identifier: LGPL-2.1-only
"""More guests than Xen's own console ring has room for in a ``q`` dump, and a guest that floods it.

For the machine "small-ring".  Who needs the dump says so in one line; nobody needs it who grants.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import IGD, dump, journal, sh, xlplug
from tests.lab.dom0.delegates import delegate
from tests.lab.dom0.hooked import STOCK, domid_of, installed, own_config, qemu_log, until, xl
from tests.lab.dom0.puppet import EDU, assignable
from tests.lab.dom0.test_watch import MEMORY, PORTS, Daemon, daemon  # noqa: F401 - a fixture
from xlplug.model.errors import XenError
from xlplug.xen.ctrl import XenCtrl

MANY = 16
PVH = 'type="pvh"\nkernel="/stubdom/{kernel}"\nmemory=16\nvcpus={vcpus}\nvkb_device=0\n'
ADVICE = "boot Xen with conring_size=1M"


def pvh(folder: Path, name: str, kernel: str = "puppet", *, vcpus: int = 2, paused: bool = True, more: str = "") -> int:
    path = folder / f"{name}.cfg"
    path.write_text(f'name="{name}"\n{PVH.format(kernel=kernel, vcpus=vcpus)}{more}')
    done = sh("xl", "create", "-pq" if paused else "-q", str(path))
    assert done.returncode == 0, done.stderr
    found = domid_of(name)
    assert found is not None
    return found


@pytest.fixture(scope="module", autouse=True)
def hook() -> Iterator[None]:
    """Installed, and first in PATH for doctor; `sh("xl", ...)` goes past it all the same, by the path of stock xl."""
    yield from installed()


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Sixteen paused guests with two vCPUs, and no dump any more."""
    assert "conring_size" not in sh("xl", "info", "xen_commandline").stdout
    folder = tmp_path_factory.mktemp("crowd")
    names = [f"crowd{number}" for number in range(MANY)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: pvh(folder, name), names))
    with XenCtrl() as xen, pytest.raises(XenError, match=ADVICE):
        xen.held()
    yield names
    disperse(names)


def disperse(names: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: sh("xl", "destroy", name), names))
    names.clear()


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    with own_config(tmp_path, request, IGD) as path:
        yield path


def granted(domid: int) -> bool:
    return 'state = "applied"' in journal(domid)


def says_why_not(*argv: str) -> None:
    """The command's only word is that the dump does not fit, and what to do."""
    done = xlplug(*argv)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert re.fullmatch(r"xlplug: .*did not fit Xen's console ring.*\n", done.stderr), done.stderr
    assert done.stderr.endswith(f"; {ADVICE} [XLP113]\n")


def survives(*argv: str) -> None:
    """Whether Xen's dump can be read or not while it is flooded: an answer, or one line."""
    done = xlplug(*argv)
    assert done.returncode == 0 or re.fullmatch(r"xlplug: .*\n", done.stderr), done.stdout + done.stderr


def doctor() -> list[dict[str, str]]:
    """Its findings, as an administrator gets them, who has the hook first in PATH."""
    done = sh("env", f"PATH=/usr/local/sbin:{STOCK}", "python3", "-m", "xlplug", "doctor", "--format", "json")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)["findings"]


def works(domid: int) -> None:
    """Grant and revoke by hand, of a guest that has been granted."""
    assert granted(domid)
    assert xlplug("revoke", str(domid)).returncode == 0
    assert not granted(domid)
    done = xlplug("grant", str(domid))
    assert done.returncode == 0, done.stderr
    assert granted(domid)


def test_among_many_guests_the_hook_and_grant_need_no_dump(crowd: list[str], config: Path) -> None:
    done = xl("create", "-p", str(config))
    assert done.returncode == 0, done.stderr
    assert qemu_log(config.stem) == []
    domid = domid_of(config.stem)
    assert domid is not None
    works(domid)
    says_why_not("show", str(domid))
    metrics = xlplug("metrics")
    assert (metrics.returncode, metrics.stderr) == (0, "")
    assert f'domid="{domid}"' in metrics.stdout
    (line,) = (f for f in doctor() if f["name"] == "console ring")
    assert line["advice"] == ADVICE


def test_among_many_guests_a_delegate_needs_no_dump(crowd: list[str]) -> None:
    domid = domid_of(crowd[0])
    assert domid is not None
    assignable(EDU)
    with delegate(domid, EDU):
        says_why_not("verify", str(domid))


def test_among_many_guests_the_watcher_needs_no_dump(daemon: Daemon, crowd: list[str], config: Path) -> None:  # noqa: F811
    done = sh("xl", "create", "-p", str(config))
    assert done.returncode == 0, done.stderr
    domid = domid_of(config.stem)
    assert domid is not None
    assert until(lambda: granted(domid)), daemon.lines()
    assert qemu_log(config.stem) == []
    disperse(crowd)
    held = dump()[domid]
    assert (held.ports, held.memory & MEMORY) == (PORTS, MEMORY)


def test_a_guest_that_floods_the_console(config: Path) -> None:
    """All the time, with a fifth of the processor, so that there is something left for dom0."""
    flood = pvh(config.parent, "flood", "flood", vcpus=1, paused=False, more="cap=20\n")
    try:
        assert until(lambda: f"(d{flood}) I/O Ports {{ 0-ffff }}" in sh("xl", "dmesg").stdout)
        done = xl("create", "-p", str(config))
        assert done.returncode == 0, done.stderr
        assert qemu_log(config.stem) == []
        domid = domid_of(config.stem)
        assert domid is not None
        works(domid)
        survives("show", str(domid))
        doctor()
        assignable(EDU)
        with delegate(flood, EDU):
            survives("verify", str(flood))
    finally:
        sh("xl", "destroy", "flood")
    held = dump()[domid]
    assert (held.ports, held.memory & MEMORY) == (PORTS, MEMORY)
