# SPDX-License-Identifier: LGPL-2.1-only
"""Random operations on living guests of the real Xen, and after each round what must be true (``make soak``).

``python3 -m tests.lab.dom0.soak MINUTES SEED``.  The same seed gives the same operations; which of those that run at the same time
comes first is the machine's business.  A round is one to three operations at once.  Then: what each domain holds is what its
record says and libxl has granted; nothing is pending, unless a run was killed, and then after the next one; no two domains have
the legacy VGA ranges; there is no record of a domain that is gone; the lock is free.
"""

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.lab.dom0.conftest import BASE, IGD, VGA, discard, dump, patience, sh
from xlplug.execute.journal import Journal, is_vga
from xlplug.model.errors import XenError
from xlplug.model.hypervisor import HeldRights
from xlplug.model.rangeset import RangeSet
from xlplug.model.steps import IOMEM, PERMISSIONS
from xlplug.xen.ctrl import XenCtrl
from xlplug.xen.devicemodel import DeviceModel
from xlplug.xen.store import XenStore

#: libxl's, or kept as if they were: the frame buffer of a display of class 0300, and its ROM line, which is the VBIOS's shadow.
_MEMORY = RangeSet([(0xA0, 0xE0)])
_SERIAL = RangeSet([(0x2F8, 0x300)])
_REBOOT = 1  # SHUTDOWN_reboot.  Source: xen/include/public/sched.h
_HOOKED = f"/usr/local/sbin:{os.environ['PATH']}"
_GUESTS = 3

#: Operation, and how often it is chosen: grants are the business, and domains are dear.
OPERATIONS = {
    "grant": 8, "map": 6, "revoke": 8, "kill a grant": 6, "kill a revoke": 4, "interrupt a grant": 4, "destroy": 2,
    "reboot": 2, "attach": 4, "detach": 4,
}  # fmt: skip


class WrongError(Exception):
    """Something is not as it must be."""


class Guest:
    """A guest's name and config, and how it was made."""

    def __init__(self, number: int, *, hooked: bool) -> None:
        self.name = f"soak{number}"
        self.hooked = hooked
        self.path = Path(f"/tmp/{self.name}.cfg")
        self.claim = Path(f"/tmp/{self.name}-claim.cfg")
        text = f'name="{self.name}"\n{BASE}passthrough="enabled"\nioports=["2f8-2ff"]\n'
        self.path.write_text(text)
        self.claim.write_text(text + IGD)

    @property
    def domid(self) -> int | None:
        done = sh("xl", "domid", self.name)
        return int(done.stdout) if done.returncode == 0 else None


class Soak:
    """The guests, the dice, and the count of what was done."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.guests = [Guest(n, hooked=n == 0) for n in range(_GUESTS)]
        self.done: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.log: list[str] = []

    def create(self, guest: Guest) -> None:
        path = _HOOKED if guest.hooked else os.environ["PATH"]
        done = subprocess.run(
            ["xl", "create", "-p", str(guest.path)], env={**os.environ, "PATH": path}, capture_output=True, text=True,
            timeout=patience(180),
        )  # fmt: skip
        if done.returncode:
            raise WrongError(f"{guest.name} is not created: {done.stderr}")

    def round(self) -> None:
        """One to three operations at once, and then all that must be true."""
        self.log = []
        running = []
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            what = self.dice.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
            guest = self.dice.choice(self.guests)
            if what == "detach":
                guest = next((g for g in self.guests if VGA[-7:] in sh("xl", "pci-list", g.name).stdout), guest)
            wait = self.dice.uniform(0, patience(2.0))
            self.log.append(f"{what} {guest.name}")
            self.done[what] += 1
            running += self._begin(what, guest, wait)
        for what, process, wait, number in running:
            self._end(what, process, wait, number)
        self._settle()
        self._judge()

    def _begin(self, what: str, guest: Guest, wait: float) -> list[tuple[str, "subprocess.Popen[str]", float, int]]:
        domid = str(guest.domid)
        grant = ["python3", "-m", "xlplug", "grant", domid, "--config", str(guest.claim)]
        argv = {
            "grant": grant,
            "map": [*grant, "--map-legacy"],
            "kill a grant": [*grant, "--map-legacy"],
            "interrupt a grant": [*grant, "--map-legacy"],
            "revoke": ["python3", "-m", "xlplug", "revoke", domid],
            "kill a revoke": ["python3", "-m", "xlplug", "revoke", domid],
            "destroy": ["xl", "destroy", domid],
            "attach": ["xl", "pci-attach", domid, VGA],
            "detach": ["xl", "pci-detach", "-f", domid, VGA],
        }
        if what == "reboot":
            with (
                contextlib.suppress(XenError, ValueError),
                DeviceModel() as model,
            ):  # another operation has destroyed it
                model.call("shutdown", int(domid), reason=_REBOOT)
            return []
        number = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}.get(what.partition(" ")[0], 0)
        process = subprocess.Popen(argv[what], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return [(what, process, wait, number)]

    def _end(self, what: str, process: "subprocess.Popen[str]", wait: float, number: int) -> None:
        if number:
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        said, _ = process.communicate(timeout=patience(120))
        self.statuses[f"{what}: {process.returncode}"] += 1
        self.log.append(f"{what}: {process.returncode}: {said.strip()[-300:]}")
        xl = what in ("destroy", "attach", "detach")
        early = number == signal.SIGINT and "\nKeyboardInterrupt" in said  # while Python was starting
        if ("Traceback" in said and not early) or (
            not xl and process.returncode not in (0, 1, 3, -signal.SIGKILL, -signal.SIGINT)
        ):
            raise WrongError(f"{what} ended with {process.returncode}: {said}")

    def _settle(self) -> None:
        """Guests that are gone are made again, and what was killed is ended by the next run."""
        for guest in self.guests:
            end = time.monotonic() + patience(60)
            while not self._living(guest) and time.monotonic() < end:
                if guest.domid is None and not self._rebooting(guest):
                    self.create(guest)
                time.sleep(0.1)
            domid = guest.domid
            with XenCtrl() as xen, XenStore() as store:
                info = None if domid is None else xen.domain_info(domid)
                if info is None:
                    raise WrongError(f"{guest.name} has not come back")
                if not info.paused:  # it has rebooted, and would again: its firmware finds no disk
                    xen.pause(info.domid)
                pending = Journal(store, info.domid, info.uuid).read().pending
            if pending:
                done = sh("python3", "-m", "xlplug", "revoke", guest.name)
                self.log.append(f"then revoke {guest.name}: {done.returncode}: {done.stderr.strip()}")
                if done.returncode:
                    raise WrongError(f"after a kill, revoke ended with {done.returncode}")

    def _living(self, guest: Guest) -> bool:
        domid = guest.domid
        if domid is None:
            return False
        with XenCtrl() as xen:
            info = xen.domain_info(domid)
        record = list(Path("/var/lib/xen").glob(f"userdata-d.{domid}.*.libxl-json"))
        return info is not None and not info.dying and not info.shutdown and bool(record)

    def _rebooting(self, guest: Guest) -> bool:
        return sh("pgrep", "-f", f"xl create -p {guest.path}").returncode == 0

    def _judge(self) -> None:
        held = dump()
        owners = []
        with XenCtrl() as xen, XenStore() as store:
            for guest in self.guests:
                info = xen.domain_info(guest.domid or 0)
                if info is None or not info.domid:
                    raise WrongError(f"{guest.name} is gone")
                entry = Journal(store, info.domid, info.uuid).read()
                if entry.pending:
                    raise WrongError(f"{guest.name}: steps are pending")
                has = held.get(info.domid, HeldRights())
                for kind, libxl, now in (("memory", _MEMORY, has.memory), ("ports", _SERIAL, has.ports)):
                    ours = RangeSet(
                        s.range for s in entry.steps if s.op in PERMISSIONS and (s.kind == IOMEM) == (kind == "memory")
                    )
                    if self._others(now, libxl) - ours or ours - now:
                        raise WrongError(f"{guest.name} holds {now} of {kind}, and {ours} is recorded")
                if any(map(is_vga, entry.every)):
                    owners.append(guest.name)
            for name in store.list("/libxl"):
                if name.isdecimal() and xen.domain_info(int(name)) is None:
                    raise WrongError(f"/libxl/{name} is left: {store.list(f'/libxl/{name}')}")
        if len(owners) > 1:
            raise WrongError(f"legacy VGA belongs to {owners}")
        self._lock_is_free()

    def _others(self, has: RangeSet, libxl: RangeSet) -> RangeSet:
        """What is held beside what libxl grants; a display that is attached brings its own BARs."""
        return RangeSet(r for r in has - libxl if r.start < 0x1000)

    def _lock_is_free(self) -> None:
        try:
            with open("/run/xlplug/lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            raise WrongError("the lock is held") from error


def main() -> int:
    minutes, seed = float(sys.argv[1]), int(sys.argv[2])
    sh("modprobe", "xen-pciback")
    sh("xl", "pci-assignable-add", VGA)
    assert sh("xlplug", "hook", "install").returncode == 0
    soak = Soak(seed)
    for guest in soak.guests:
        soak.create(guest)
    end = time.monotonic() + 60 * minutes
    rounds = 0
    wrong = ""
    try:
        while time.monotonic() < end:
            soak.round()
            rounds += 1
    except (WrongError, subprocess.TimeoutExpired) as error:
        wrong = f"round {rounds}: {error}\n  " + "\n  ".join(soak.log)
    for guest in soak.guests:
        discard(guest.name)
    print(f"seed {seed}: {rounds} rounds, {soak.done.total()} operations in {minutes:g} minutes")
    print("  " + ", ".join(f"{what}: {n}" for what, n in sorted(soak.done.items())))
    print("  exits: " + ", ".join(f"{what} ({n})" for what, n in sorted(soak.statuses.items())))
    print(f"WRONG: {wrong}" if wrong else "nothing was wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
