# SPDX-License-Identifier: LGPL-2.1-only
"""``python3 -m tests.lab check|build|shell|exec|run``: the lab from the command line.

Exit status: the job's own (124: it took too long); 70 when the machine was lost; 69 when the lab cannot run here.
"""

import argparse
import shlex
import signal
import sys
from pathlib import Path

from tests.lab import stubdom, tree, vm
from tests.lab.devices import with_devices
from tests.lab.igd import machine
from tests.lab.igd.emulator import emulator
from tests.lab.systemd import tree as systemd_tree
from tests.lab.systemd.machine import with_systemd

EX_UNAVAILABLE, EX_SOFTWARE = 69, 70  # sysexits.h
CUT_OFF = 124  # timeout(1)
MACHINES = {
    "standard": vm.standard, "small-ring": vm.small_ring, "igd": machine.with_igd, "devices": with_devices,
    "systemd": with_systemd,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    parser.add_argument("what", choices=("check", "build", "shell", "exec", "run"))
    parser.add_argument("--release", default="bookworm", choices=tuple(tree.RELEASES))
    parser.add_argument("--machine", default="standard", choices=tuple(MACHINES), help="what is emulated")
    parser.add_argument("--out", type=Path, default=vm.REPO / "build" / "lab")
    parser.add_argument("--timeout", type=int, default=900)
    parser.add_argument("--memory", type=int, default=vm.MEMORY, help="of the machine, in MiB: dom0 has 1024 of it")
    parser.add_argument("--device", action="append", default=[], help="a -device for QEMU, repeatable")
    parser.add_argument("args", nargs="*", help="exec: a command; run: pytest's arguments")
    options = parser.parse_intermixed_args()
    reason = tree.missing_tools()
    if reason:
        print(f"lab: cannot run here: {reason}", file=sys.stderr)
        return EX_UNAVAILABLE
    if options.what == "check":
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that scratch folders go
    try:
        built = (systemd_tree if options.machine == "systemd" else tree).get(options.release)
        libraries = tree.libraries() if options.what == "run" else {}
        stubdom.get(built)
        if options.machine == "igd":
            emulator()
    except tree.BuildError as failed:
        print(f"lab: no {options.release} tree: {failed}", file=sys.stderr)
        return EX_UNAVAILABLE
    devices = tuple(options.device)
    maker = MACHINES[options.machine]
    if options.what == "build":
        return 0
    script = shlex.join(options.args if options.what == "exec" else _pytest(options.machine, options.args))
    try:
        if options.what == "shell":
            return vm.shell(built, out=options.out, memory=options.memory, devices=devices, maker=maker)
        result = vm.run(
            built,
            script,
            out=options.out,
            timeout=options.timeout,
            memory=options.memory,
            devices=devices,
            follow=True,
            libraries=libraries,
            maker=maker,
        )
    except vm.LostVmError as lost:
        print(f"lab: {lost}{_in_test(options.out)}", file=sys.stderr)
        return EX_SOFTWARE
    except FileExistsError as error:
        print(f"lab: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    if result.status == CUT_OFF:
        print(f"lab: cut off after {result.seconds:.0f} s{_in_test(options.out)}", file=sys.stderr)
    slow = f", a machine {vm.slowness(options.out):.1f} times slower than a quiet one"
    print(f"lab: Xen {built.release.xen} ({options.release}): exit {result.status}, {result.seconds:.0f} s{slow}")
    return result.status


def _in_test(out: Path) -> str:
    """Which test had begun, when pytest could not say it any more."""
    path = out / "test"
    return f", in {path.read_text()}" if path.exists() else ""


def _pytest(machine: str, args: list[str]) -> list[str]:
    """pytest's command line; all tests for the machine unless ``args`` name some."""
    named = any((vm.REPO / arg.split("::")[0]).exists() for arg in args)
    paths = (
        []
        if named
        else {
            "standard": ["tests/lab/dom0", "tests/contract"],
            "small-ring": ["tests/lab/dom0"],
            "igd": ["tests/lab/igd/dom0"],
            "devices": ["tests/lab/dom0"],
            "systemd": ["tests/lab/systemd/dom0"],
        }[machine]
    )
    options = [
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.lab.progress",
        "--color=no",
        "--durations=8",
        "--junitxml=/out/junit.xml",
    ]
    return ["python3", "-m", "pytest", *options, *args, *paths]


if __name__ == "__main__":
    sys.exit(main())
