# SPDX-License-Identifier: LGPL-2.1-only
"""``xl create`` through the hook, with stock xl and stock QEMU on the real Xen."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.dom0.conftest import BASE, IGD, VGA, dump, journal, sh
from tests.lab.dom0.hooked import (
    FRONT_END,
    STOCK,
    WRAPPER,
    Probe,
    add,
    domid_of,
    guests_of_xen,
    installed,
    own_config,
    qemu_log,
    until,
    xl,
)
from xlplug.hook.device_model import default_path
from xlplug.model.hypervisor import HeldRights
from xlplug.model.rangeset import RangeSet
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.lib import running_version

PORTS = RangeSet(((0x3B0, 0x3BC), (0x3C0, 0x3E0)))
MEMORY = RangeSet([(0xA0, 0xC0)])
#: Needs xlplug, yet no PCI device: quick to make and to destroy.
INERT = 'ioports=["2f8-2ff"]\n'
QEMU = default_path(running_version()[:2])
_REBOOT = 1  # SHUTDOWN_reboot.  Source: xen/include/public/sched.h


@pytest.fixture(scope="module", autouse=True)
def hook() -> Iterator[None]:
    yield from installed()


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    with own_config(tmp_path, request) as path:
        yield path


def destroy(name: str) -> None:
    """Destroyed, it leaves nothing of ours and nothing in Xen."""
    domid = domid_of(name)
    assert domid is not None
    assert xl("destroy", name).returncode == 0
    assert until(lambda: domid not in guests_of_xen())
    assert journal(domid) == ""
    assert sh("xenstore-read", f"/libxl/{domid}/xlplug-paused").returncode != 0


def reboot(name: str) -> None:
    """The guest reboots: another domain takes its place, and has what it had."""
    before = domid_of(name)
    assert before is not None
    with DeviceModel() as model:
        model.call("shutdown", before, reason=_REBOOT)
    assert until(lambda: domid_of(name) not in (None, before), 60)
    again = domid_of(name)
    assert again is not None
    assert until(lambda: 'state = "applied"' in journal(again))
    assert "ioport_mapping" in journal(again)
    assert sh("xenstore-ls", f"/libxl/{before}").returncode != 0
    # xl's daemon is done with it when libxl has written its record; before, each would destroy under the other's hands.
    assert until(lambda: list(Path("/var/lib/xen").glob(f"userdata-d.{again}.*.libxl-json")))


def test_everything_is_there_when_the_device_model_starts(config: Path, tmp_path: Path) -> None:
    probe = Probe(tmp_path, QEMU)
    add(config, IGD + probe.line)
    done = xl("create", "-p", str(config))
    assert done.returncode == 0, done.stderr
    domid = domid_of(config.stem)
    assert domid is not None
    given = probe.read()
    assert given.held[domid] == HeldRights(PORTS, MEMORY), "before the device model runs, exactly what was planned"
    assert qemu_log(config.stem) == []
    assert sh("xenstore-read", f"/local/domain/{domid}/image/device-model-pid").stdout.strip() == str(given.pid)
    assert os.readlink(f"/proc/{given.pid}/exe") == os.path.realpath(QEMU)
    destroy(config.stem)

    # Past the hook: the same arguments, environment, descriptors and signals, but for the domid and xl's own numbers.
    add(config, "# stock\n")
    assert xl("create", "-p", str(config), front_end=False).returncode == 0
    stock = probe.read()
    assert [word.replace(f"{domid}", "N") for word in given.argv] == [
        word.replace(f"{domid + 1}", "N") for word in stock.argv
    ]
    assert given.env.keys() == stock.env.keys()
    assert given.env["XEN_DOMAIN_ID"] == str(domid)
    assert given.signals == stock.signals
    assert given.fds.keys() == stock.fds.keys()
    assert given.fds[0] == stock.fds[0] == "/dev/null"


def test_a_config_that_needs_nothing_goes_to_xl_as_it_is(config: Path) -> None:
    done = xl("-v", "create", "-p", str(config))
    assert done.returncode == 0, done.stderr
    domid = domid_of(config.stem)
    assert sh("xl", "list", "-l", config.stem).stdout.count("device_model") == 0
    pid = sh("xenstore-read", f"/local/domain/{domid}/image/device-model-pid").stdout.strip()
    assert os.readlink(f"/proc/{pid}/exe") == os.path.realpath(QEMU)
    assert sh("pgrep", "-f", f"xl -v create -p {config}$").returncode == 0, (
        "xl's command line is the one that was typed"
    )
    assert journal(domid or 0) == ""


def test_the_other_subcommands_are_xl_s(config: Path) -> None:
    for words in (
        ["list"],
        ["info", "-n"],
        ["vcpu-list", "0"],
        ["nonsense"],
        ["domid", "nobody"],
        [],
        ["create", "-h"],
    ):
        mine, stock = xl(*words), xl(*words, front_end=False)
        assert mine.returncode == stock.returncode, words
        assert (mine.stdout.split()[:3], mine.stderr) == (stock.stdout.split()[:3], stock.stderr), words


def test_a_rebooting_guest_is_granted_again_whatever_became_of_its_config(config: Path) -> None:
    add(config, "#" * 79 + "\n")
    add(config, "#" * ((1 << 20) - config.stat().st_size - 200) + "\n" + INERT)
    assert config.stat().st_size > 1 << 19
    assert xl("create", "-p", str(config)).returncode == 0
    first = domid_of(config.stem)
    assert first is not None
    assert dump()[first].ports == RangeSet([(0x2F8, 0x300)])
    config.write_text("this is no config any more")
    for _ in range(2):
        reboot(config.stem)
    renamed = f"{config.stem}-renamed"
    assert xl("rename", config.stem, renamed).returncode == 0
    reboot(renamed)
    config.write_text(f'name="{config.stem}"\n')
    destroy(renamed)


FAILING = """#!/usr/bin/python3
# xlplug: a wrapper whose last grant fails
import errno, sys
sys.path.insert(0, "/xlplug")
from xlplug.execute import apply
from xlplug.model.errors import XenError
real, done = apply._perform, []
def failing(step, xen):
    done.append(step)
    if len(done) == 3:
        raise XenError("xc_domain_ioport_permission", errno.ENOMEM, "injected")
    real(step, xen)
apply._perform = failing
from xlplug.hook.wrapper import main
main(sys.argv)
"""


def test_a_failing_grant_leaves_no_domain_and_one_line(config: Path, tmp_path: Path) -> None:
    failing = tmp_path / "device-model"
    failing.write_text(FAILING)
    failing.chmod(0o755)
    add(config, IGD)
    before = guests_of_xen()
    done = sh("env", f"XLPLUG_DEVICE_MODEL={failing}", "xlplug", "create", "-p", str(config))
    assert done.returncode != 0
    assert domid_of(config.stem) is None
    assert until(lambda: guests_of_xen() == before)
    lines = [line for line in done.stderr.splitlines() if line.startswith("xlplug:")]
    assert len(lines) == 1, done.stderr
    assert "ENOMEM" in lines[0]
    assert "undone" in lines[0]
    assert lines[0] in Path(f"/var/log/xen/qemu-dm-{config.stem}.log").read_text()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('gfx_passthru="igd"\npci=["00:1e.7"]\n', "no such PCI device"),
        ('gfx_passthru="igd"\npci=["00:02.0"]\n', "not assignable"),
        (IGD + "maxmem=128\n", "populate on"),
        (IGD + 'device_model_override="/nonexistent/qemu"\n', "/nonexistent/qemu"),
    ],
)
def test_what_can_be_refused_is_refused_before_anything_exists(config: Path, extra: str, says: str) -> None:
    add(config, extra)
    before = guests_of_xen(), sh("ls", "/var/log/xen").stdout
    done = xl("create", "-p", str(config))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("xlplug: ")
    assert says in done.stderr
    assert (guests_of_xen(), sh("ls", "/var/log/xen").stdout) == before


def test_a_second_guest_with_the_vga_ports_is_refused(config: Path, tmp_path: Path) -> None:
    add(config, 'ioports=["3c0-3df"]\n')
    assert xl("create", "-p", str(config)).returncode == 0
    other = tmp_path / "other.cfg"
    other.write_text(f'name="other"\n{BASE}{IGD}')
    done = xl("create", "-p", str(other))
    assert done.returncode == 1
    assert "holds the legacy VGA ports already" in done.stderr
    assert domid_of("other") is None


def test_a_config_that_xl_rejects_gets_xl_s_own_words(config: Path) -> None:
    for text in ("name = = 3\n", IGD + "memory=[\n", 'type="nonsense"\n'):
        config.write_text(f'name="{config.stem}"\n{BASE}{text}')
        mine, stock = xl("create", str(config)), xl("create", str(config), front_end=False)
        assert stock.returncode != 0
        assert (mine.returncode, mine.stderr, mine.stdout) == (stock.returncode, stock.stderr, stock.stdout)


def test_options_and_words_are_xl_s(config: Path) -> None:
    (config.parent / "empty.cfg").write_text("")
    words = [f'name="{config.stem}"', 'type="hvm"', "memory=64", "vnc=0", 'vga="none"', 'ioports=["2f8-2ff"]']
    done = xl("create", "-q", "-f", str(config.parent / "empty.cfg"), "-p", *words)
    assert done.returncode == 0, done.stderr
    domid = domid_of(config.stem)
    assert "ioport_mapping" in journal(domid or 0)


def test_the_front_end_finds_its_way_past_itself(config: Path, tmp_path: Path) -> None:
    """Two hooks in PATH, and a config that names our wrapper as its own device model."""
    second = tmp_path / "second"
    assert sh("xlplug", "hook", "install", "--prefix", str(second)).returncode == 0
    add(config, INERT + f'device_model_override="{WRAPPER}"\n')
    done = xl("create", "-p", str(config), PATH=f"{second}/sbin:/usr/local/sbin:{STOCK}")
    assert done.returncode == 0, done.stderr
    domid = domid_of(config.stem)
    assert "ioport_mapping" in journal(domid or 0)
    refused = sh("xlplug", "hook", "uninstall", "--prefix", str(second))
    assert refused.returncode == 1
    assert f"would not come back from a reboot of their own: {config.stem} (domain {domid}); " in refused.stderr
    destroy(config.stem)
    assert sh("xlplug", "hook", "uninstall", "--prefix", str(second)).returncode == 0
    assert not second.exists()


def test_the_wrapper_alone_finds_the_config_of_a_running_xl(config: Path) -> None:
    """As where an administrator puts the wrapper into the config and leaves xl alone."""
    add(config, INERT + f'device_model_override="{WRAPPER}"\ndevice_model_version="qemu-xen"\n')
    done = xl("create", "-p", str(config), front_end=False)
    assert done.returncode == 0, done.stderr
    assert "ioport_mapping" in journal(domid_of(config.stem) or 0)


XML = """<domain type='xen'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>65536</memory>
<os><type arch='x86_64' machine='xenfv'>hvm</type></os>
<devices><emulator>{wrapper}</emulator><hostdev mode='subsystem' type='pci' managed='yes'><driver name='xen'/>
<source><address domain='0x0000' bus='0x00' slot='0x01' function='0x0'/></source></hostdev></devices></domain>
"""


def test_a_domain_of_libvirt_s_is_found_in_its_definition(config: Path) -> None:
    """libvirt calls libxl as xl does here, with <emulator> as override; the definition is preferred to xl's own file."""
    uuid = "f3b2a0f6-0a6c-4a3e-8f0c-2f0b1c5a9d11"
    folder = Path("/etc/libvirt/libxl")
    folder.mkdir(parents=True)
    definition = folder / f"{config.stem}.xml"
    definition.write_text(XML.format(name=config.stem, uuid=uuid, wrapper=WRAPPER))
    add(config, IGD + f'uuid="{uuid}"\ndevice_model_override="{WRAPPER}"\ndevice_model_version="qemu-xen"\n')
    try:
        done = xl("create", "-p", str(config), front_end=False)
        assert done.returncode == 0, done.stderr
        domid = domid_of(config.stem)
        assert domid is not None
        assert dump()[domid].ports == PORTS
        assert VGA in journal(domid)
    finally:
        definition.unlink()
        folder.rmdir()
        folder.parent.rmdir()


def test_the_wrapper_by_hand(tmp_path: Path) -> None:
    for words, code, says in (
        (["-xen-domid", "4000"], 1, "domain 4000 does not exist; see 'xl list'"),
        (["-xen-domid", "0"], 1, ""),
    ):
        done = sh(WRAPPER, *words)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    for words in (["-help"], ["-version"], ["-machine", "help"]):
        mine, stock = sh(WRAPPER, *words), sh(QEMU, *words)
        assert (mine.returncode, mine.stdout, mine.stderr) == (stock.returncode, stock.stdout, stock.stderr)


def test_an_interrupted_xl_leaves_nothing(config: Path) -> None:
    add(config, IGD)
    before = guests_of_xen()
    env = {**os.environ, "PATH": f"/usr/local/sbin:{STOCK}"}
    with subprocess.Popen([FRONT_END, "create", "-p", str(config)], env=env, stderr=subprocess.DEVNULL) as process:
        assert until(lambda: domid_of(config.stem) is not None)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    sh("xl", "destroy", config.stem)
    assert until(lambda: guests_of_xen() == before)


def test_saved_and_restored(config: Path, tmp_path: Path) -> None:
    add(config, INERT)
    assert xl("create", str(config)).returncode == 0
    saved = tmp_path / "saved"
    done = xl("save", config.stem, str(saved))
    assert done.returncode == 0, done.stderr
    for words in ([str(saved)], [str(config), str(saved)], ["/proc/self/fd/0"]):
        with saved.open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as pipe:
            done = xl("restore", "-p", *words, stdin=pipe.stdout)
            pipe.kill()
        assert done.returncode == 0, done.stderr
        domid = domid_of(config.stem)
        assert "ioport_mapping" in journal(domid or 0)
        destroy(config.stem)


def test_sent_to_another_host(config: Path) -> None:
    """To this one, which is another to xl; the sender has a hook or not, and the receiver's decides."""
    add(config, INERT)
    for front_end in (True, False):
        assert xl("create", "-p", str(config), front_end=front_end).returncode == 0
        before = domid_of(config.stem)
        done = xl("migrate", "-p", "-s", "", config.stem, "/usr/local/sbin/xl migrate-receive -p")
        assert done.returncode == 0, done.stderr
        assert "xlplug" not in done.stderr
        domid = domid_of(config.stem)
        assert domid not in (None, before)
        assert "ioport_mapping" in journal(domid or 0)
        assert guests_of_xen() == {domid}
        assert qemu_log(f"{config.stem}--incoming") == []
        if front_end:
            reboot(config.stem)
        destroy(config.stem)
    assert sh("pgrep", "-f", "migrate-receive").stdout.split() == []


def test_sent_and_refused_it_goes_on_where_it_was(config: Path) -> None:
    add(config, INERT)
    assert xl("create", str(config)).returncode == 0
    before = domid_of(config.stem)
    held = dump()
    done = xl("migrate", "-s", "", config.stem, "XLPLUG_DEVICE_MODEL=/none xlplug migrate-receive")
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("xlplug:")]
    assert ours == ["xlplug: there is no device model wrapper at /none; run 'xlplug hook install' [XLP602]"]
    assert domid_of(config.stem) == before
    assert dump() == held
    assert sh("pgrep", "-f", "migrate-receive").stdout.split() == []
    destroy(config.stem)


@pytest.mark.once
def test_many_in_a_row_and_five_at_once(tmp_path: Path) -> None:
    before = guests_of_xen()

    def path(i: int) -> Path:
        config = tmp_path / f"many{i}.cfg"
        config.write_text(f'name="many{i}"\n{BASE}{IGD if i == 0 else INERT}')
        return config

    for i in range(1, 9):
        done = xl("create", "-p", str(path(i)))
        assert done.returncode == 0, done.stderr
        assert "ioport_mapping" in journal(domid_of(f"many{i}") or 0)
        assert sh("xl", "destroy", f"many{i}").returncode == 0
    assert until(lambda: guests_of_xen() == before)
    assert sh("xenstore-ls", "/libxl").stdout.count("xlplug") == 0
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda i: xl("create", "-p", str(path(i))), range(5)))
    assert [done.returncode for done in results] == [0] * 5, [done.stderr for done in results]
    held = dump()
    assert held[domid_of("many0") or 0].ports == PORTS
    assert all(held[domid_of(f"many{i}") or 0].ports == RangeSet([(0x2F8, 0x300)]) for i in range(1, 5))
    for i in range(5):
        destroy(f"many{i}")
    assert guests_of_xen() == before
