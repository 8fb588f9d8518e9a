# SPDX-License-Identifier: LGPL-2.1-only
"""Debian's packages in dom0: installed with apt, used through the whole hook, upgraded under a guest, removed.

Nothing here runs xlplug from the tree: what is started sees an empty folder in its place.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import IGD, dump, journal
from tests.lab.dom0.hooked import domid_of, own_config, qemu_log, until
from tests.lab.dom0.packaged import COPIES, install, offer, ok, run, withdraw
from xlplug.model.rangeset import RangeSet
from xlplug.xen.devicemodel import DeviceModel

LINK = Path("/usr/local/sbin/xl")
LIBRARY = "/usr/lib/xlplug/libxlplug-preload.so"
UPGRADED = Path("/run/upgraded")
PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
_REBOOT = 1  # SHUTDOWN_reboot.  Source: xen/include/public/sched.h
#: Where apt and dpkg write down what they did, and what runs at the same time.
_NOTES = ("/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/run", "/tmp", "/var/lib/xen", "/etc/ld.so.cache")


def files() -> set[str]:
    """Every file, link and folder of this dom0 but apt's own notes and compiled modules of other packages."""
    found = ok("find", "/etc", "/usr", "/var", "/lib", "/boot", "/opt", "-xdev", "-print").splitlines()
    return {path for path in found if not path.startswith(_NOTES) and "/__pycache__" not in path}


@pytest.fixture(scope="module", autouse=True)
def before() -> Iterator[set[str]]:
    offer()
    yield files()
    withdraw()


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    with own_config(tmp_path, request, IGD) as path:
        yield path


def newer(name: str, folder: Path) -> str:
    """The same package with a higher version, whose wrapper leaves a mark."""
    (old,) = COPIES.glob(f"{name}_*.deb")
    tree = folder / name
    ok("dpkg-deb", "-R", str(old), str(tree))
    control = tree / "DEBIAN" / "control"
    version = next(line for line in control.read_text().splitlines() if line.startswith("Version: "))
    control.write_text(control.read_text().replace(version, f"{version}+1"))
    wrapper = tree / "usr/lib/xlplug/device-model"
    wrapper.write_text(wrapper.read_text().replace("main(sys.argv)", f'open("{UPGRADED}", "w")\nmain(sys.argv)'))
    target = folder / f"{name}-newer.deb"
    ok("dpkg-deb", "-b", str(tree), str(target))
    return str(target)


@pytest.mark.once
def test_life_of_a_package(before: set[str], config: Path, tmp_path: Path) -> None:
    install()
    where = ok("python3", "-c", "import xlplug.plan; print(xlplug.plan.__file__, xlplug.plan.__cached__)").split()
    assert where[0] == "/usr/lib/python3/dist-packages/xlplug/plan.py"
    assert Path(where[1]).exists(), "compiled when it was installed"

    # Off: nothing is before xl, and no daemon is enabled.
    assert not os.path.lexists(LINK)
    assert run("xlplug", "hook", "status").returncode == 1
    assert not list(Path("/etc/systemd").rglob("xlplug-watch.service"))

    # On, with one command.
    ok("xlplug", "hook", "install")
    assert os.readlink(LINK) == "/usr/lib/xlplug/xl"
    ok("xlplug", "hook", "status", str(config))
    config.write_text(config.read_text() + "xlplug_preload=1\n")
    done = run("xl", "create", "-p", str(config))
    assert done.returncode == 0, done.stderr
    domid = domid_of(config.stem)
    assert domid is not None
    held = dump()[domid]
    assert held.ports & PORTS == PORTS
    assert qemu_log(config.stem) == []
    pid = ok("xenstore-read", f"/local/domain/{domid}/image/device-model-pid").strip()
    assert LIBRARY in Path(f"/proc/{pid}/maps").read_text()
    assert "granted by xlplug" in ok("xlplug", "show", str(domid))

    asked = ["_XLPLUG_COMPLETE=bash_complete", "COMP_WORDS=xlplug show ", "COMP_CWORD=2"]
    assert {f"plain,{domid}", f"plain,{config.stem}"} <= set(ok("env", *asked, "xlplug").splitlines())
    assert f'domain="{config.stem}",grantee="target",kind="ioport",state="granted"' in ok("xlplug", "metrics")
    assert 'xlplug_runs_total{by="wrapper",outcome="done"} 1' in ok("xlplug", "metrics")
    ok("xlplug", "map", config.stem, "-o", "/tmp/map.html")
    assert ">granted" in Path("/tmp/map.html").read_text()

    # Upgraded under the guest, which then reboots: through the new wrapper, with the configuration of its creation.
    ok("apt-get", "-y", "install", newer("xlplug", tmp_path))
    assert ok("dpkg-query", "-W", "-f", "${Version}", "xlplug").endswith("+1")
    assert os.readlink(LINK) == "/usr/lib/xlplug/xl"
    assert not UPGRADED.exists()
    with DeviceModel() as model:
        model.call("shutdown", domid, reason=_REBOOT)
    assert until(lambda: domid_of(config.stem) not in (None, domid), 60)
    again = domid_of(config.stem)
    assert again is not None
    assert until(lambda: 'state = "applied"' in journal(again))
    assert UPGRADED.exists()
    assert dump()[again].ports & PORTS == PORTS
    assert until(lambda: list(Path("/var/lib/xen").glob(f"userdata-d.{again}.*.libxl-json")))

    # Removed under it: says which guests need it, and xl is Xen's own.
    done = run("apt-get", "-y", "remove", "xlplug")
    assert done.returncode == 0, done.stderr
    assert f"until xlplug is installed again: {config.stem}" in done.stdout + done.stderr
    assert not os.path.lexists(LINK)
    assert domid_of(config.stem) == again, "the guest runs on"
    assert run("xl", "destroy", config.stem).returncode == 0
    pin, counts = Path("/run/xlplug/opregion"), Path("/run/xlplug/tally")
    pin.write_text("7a18d018\n")
    assert counts.exists()
    ok("apt-get", "-y", "purge", "xlplug", "xlplug-preload")
    assert not counts.exists()
    assert pin.exists(), "what the next installation must know of this boot"
    pin.unlink()
    assert files() - before == set()
    assert before - files() == set()
