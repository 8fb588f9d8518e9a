# SPDX-License-Identifier: LGPL-2.1-only
"""Boots the real Xen with a Linux dom0 in plain emulated QEMU, runs one job there, and returns its verdict.

QEMU exits 0 even when Xen or dom0 panics, so the verdict comes back in a file on the out share.  No verdict means that
the machine was lost (`LostVmError`), which is not a failed test.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab import stubdom
from tests.lab.tree import Tree

HERE = Path(__file__).parent
REPO = HERE.parents[1]
#: Left over of a run's time for booting, the logs and powering off, once the job itself has been stopped.
MARGIN = 60
#: MiB of the machine: dom0's 1024, Xen's own, and some small guests, one of them with a stubdomain.
MEMORY = 3072


class LostVmError(Exception):
    """The machine ended or hung without a verdict."""


class Result(NamedTuple):
    """What a job left: its exit status, the folder with output, logs and anything it wrote to /out, and seconds taken."""

    status: int
    out: Path
    seconds: float


class Machine(NamedTuple):
    """What machines differ in: QEMU with its leading arguments, the IOMMU, displays, more shares, and Xen options.

    ``ring`` is the option for Xen's console ring: by default one that has room for everything that a run says.
    ``slot``: where on the PCI bus the shares begin; None where QEMU may choose.
    """

    qemu: tuple[str, ...] = ("qemu-system-x86_64",)
    iommu: str = "intel-iommu,intremap=off"
    displays: tuple[str, ...] = ("-vga", "std")
    xen: str = ""
    ring: str = "conring_size=4M"
    shares: tuple[tuple[str, Path], ...] = ()
    slot: int | None = None


#: Makes a machine ready, given a tree and the folder of a job, to which it may add; at its end everything that it started ends.
Maker = Callable[[Tree, Path], AbstractContextManager[Machine]]


@contextmanager
def standard(tree: Tree, job: Path) -> Iterator[Machine]:
    """The machine with the emulated display at 00:01.0, of the QEMU that is installed here."""
    yield Machine()


@contextmanager
def small_ring(tree: Tree, job: Path) -> Iterator[Machine]:
    """A machine with Xen's own console ring, 16 KiB on up to 8 processors, and a device to delegate."""
    yield Machine(ring="", displays=("-vga", "std", "-device", "edu,addr=10.0"))


def command(
    tree: Tree, job: Path, out: Path, machine: Machine, *, memory: int, devices: tuple[str, ...], interactive: bool
) -> list[str]:
    """QEMU's command line.  An emulated Intel IOMMU and nested SVM make HVM guests with PCI passthrough possible.

    setpriv: the machine dies with us, however we die, and is never left running.
    """
    args = [
        "setpriv", "--pdeathsig", "KILL",
        *machine.qemu, "-accel", "tcg", "-smp", "1", "-M", "q35", "-device", machine.iommu,
        "-cpu", "qemu64,+svm,+npt,+rdrand", "-m", str(memory), "-display", "none", "-monitor", "none", "-no-reboot",
        "-nodefaults", *machine.displays, "-serial", "mon:stdio" if interactive else "stdio",
        "-kernel", str(tree.xen),
        # Without what protects processors from one another's guesses: emulated ones guess nothing, and it costs a tenth.
        "-append",
        "console=com1 dom0_mem=1024M loglvl=all guest_loglvl=all iommu=verbose spec-ctrl=no "
        f"{machine.ring} {machine.xen}",
        "-initrd", f"{tree.kernel} console=hvc0 quiet panic=1 mitigations=off,{tree.initrd}",
    ]  # fmt: skip
    shares = (
        ("root", tree.root, True), ("job", job, True), ("tree", REPO, True), ("stubdom", stubdom.get(tree), True),
        ("out", out, False), *((tag, path, True) for tag, path in machine.shares),
    )  # fmt: skip
    for number, (tag, path, readonly) in enumerate(shares):
        where = "" if machine.slot is None else f",addr={machine.slot + number:#x}"
        extra = ",readonly=on" if readonly else ""
        extra += ",multidevs=remap" if tag in ("root", "tree") else ""
        escaped = str(path).replace(",", ",,")
        args += ["-fsdev", f"local,id={tag},path={escaped},security_model=none{extra}"]
        args += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}{where}"]
    for device in devices:
        args += ["-device", device]
    return args


def run(
    tree: Tree, script: str, *, out: Path, timeout: int = 600, memory: int = MEMORY, devices: tuple[str, ...] = (),
    follow: bool = False,
    libraries: dict[str, Path] | None = None,
    maker: Maker = standard,
) -> Result:  # fmt: skip
    """Boot, run ``script`` with sh in dom0 (working directory: the repository), power off.

    A job that takes longer than ``timeout`` less ``MARGIN`` is stopped, and its status is then 124.  Both are seconds of a
    quiet machine, and multiplied by what `slowness` says.
    ``libraries`` are other releases' libxenctrl by Xen version: folders that appear as /job/lib-VERSION.

    Raises:
        LostVmError: no verdict; the text says at which step, with the end of the serial log.
        FileExistsError: ``out`` holds something else than a former run's results.
    """
    _empty(out)
    with tempfile.TemporaryDirectory() as scratch:
        job = _job(Path(scratch), tree)
        (job / "job.sh").write_text(script)
        (job / "timeout").write_text(str(max(timeout - MARGIN, 1)))
        for version, folder in (libraries or {}).items():
            shutil.copytree(folder, job / f"lib-{version}")
        began = time.monotonic()
        serial = out / "serial.log"
        with serial.open("wb") as log, maker(tree, job) as made:
            machine = subprocess.Popen(
                command(tree, job, out, made, memory=memory, devices=devices, interactive=False),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                _wait(machine, out, began, timeout, follow=follow)
            finally:
                machine.kill()
                machine.wait()
        seconds = time.monotonic() - began
    verdict = out / "verdict"
    text = verdict.read_text().strip() if verdict.exists() else ""
    if not text.isdecimal():
        step = (out / "step").read_text().strip() if (out / "step").exists() else "boot"
        tail = "\n".join(serial.read_text(errors="replace").splitlines()[-25:])
        raise LostVmError(
            f"the lab's machine was lost at step '{step}' after {seconds:.0f} s; end of {serial}:\n{tail}"
        )
    return Result(int(text), out, seconds)


def _job(folder: Path, tree: Tree) -> Path:
    """What every job has.  dom0.sh comes from here, not from the tree: a change to it needs no new tree."""
    (folder / "xen-version").write_text(tree.release.xen)
    for name in ("dom0.sh", "slowness.py"):
        shutil.copy(HERE / name, folder)
    return folder


def _empty(out: Path) -> None:
    """Make ``out`` an empty folder, unless it has never been a results folder: its contents would be lost."""
    names = {p.name for p in out.iterdir()} if out.exists() else set()
    if names and not names & {"serial.log", "step"}:
        raise FileExistsError(f"{out} is not a results folder of the lab and not empty; name another one")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)


def slowness(out: Path) -> float:
    """How many times slower than usual the machine found itself when it had booted; 1 before that."""
    path = out / "slowness"
    text = path.read_text().strip() if path.exists() else ""
    return int(text) / 100 if text.isdecimal() else 1


def _wait(machine: "subprocess.Popen[bytes]", out: Path, began: float, timeout: int, *, follow: bool) -> None:
    """Until the machine is off, the time is over, or a moment after the verdict; ``follow`` copies output as it grows."""
    shown = 0
    verdict_seen = 0.0
    while time.monotonic() < began + timeout * slowness(out):
        ended = machine.poll() is not None
        output = out / "output"
        if follow and output.exists():
            with output.open("rb") as file:
                file.seek(shown)
                data = file.read()
            shown += len(data)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        if ended:
            return
        if (out / "verdict").exists():
            verdict_seen = verdict_seen or time.monotonic()
            if time.monotonic() - verdict_seen > 1:  # it is the last thing written
                return
        time.sleep(0.2)


def shell(
    tree: Tree, *, out: Path, memory: int = MEMORY, devices: tuple[str, ...] = (), maker: Maker = standard
) -> int:
    """An interactive shell in dom0 on this terminal."""
    _empty(out)
    with tempfile.TemporaryDirectory() as scratch:
        job = _job(Path(scratch), tree)
        (job / "interactive").write_text("")
        with maker(tree, job) as made:
            return subprocess.call(
                command(tree, job, out, made, memory=memory, devices=devices, interactive=True), env=dict(os.environ)
            )
